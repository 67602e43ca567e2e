"""Triton kernels on the CPU: the interpreter, with jax arrays for torch's and with faster scans.

conftest.py puts TRITON_INTERPRET=1 into the environment: triton asks for it when it and the kernels
are imported, and again when they run.
"""

from types import SimpleNamespace

import jax
import numpy as np
from triton.runtime import interpreter


class Memory:
    """What the interpreter asks of a torch tensor, for a numpy array."""

    def __init__(self, array):
        self.array = array
        self.dtype, self.shape = array.dtype, array.shape

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return SimpleNamespace(
            data_ptr=self.data_ptr, cpu=self.untyped_storage, copy_=lambda other: None
        )

    def new_empty(self, *shape, device):
        return Memory(self.array)

    def set_(self, *storage):
        return self

    def storage_offset(self):
        return 0

    def size(self):
        return self.shape

    def stride(self):
        return tuple(s // self.array.itemsize for s in self.array.strides)


def _along(self, operands):
    """The results of combining ever more slices along the axis.

    The interpreter combines element by element, in python: a tile takes it seconds.
    """
    axis = self.axis
    slices = [
        [self.to_tensor(np.take(x.handle.data, i, axis), x.dtype) for x in operands]
        for i in range(operands[0].handle.data.shape[axis])
    ]
    results = [tuple(slices[0])]
    for here in slices[1:]:
        combined = self.combine_fn.fn(*results[-1], *here)
        results.append(combined if isinstance(combined, tuple) else (combined,))
    return results


def scan(self, operands):
    """For interpreter.ScanOps.generic_scan."""
    steps = zip(*_along(self, operands), strict=True)
    return [
        self.to_tensor(np.stack([y.handle.data for y in step], self.axis), x.dtype)
        for step, x in zip(steps, operands, strict=True)
    ]


def reduce(self, operands):
    """For interpreter.ReduceOps.generic_reduce, along one axis."""
    data = [y.handle.data for y in _along(self, operands)[-1]]
    if self.keep_dims:
        data = [np.expand_dims(x, self.axis) for x in data]
    return [self.to_tensor(x, y.dtype) for x, y in zip(data, operands, strict=True)]


patched = set()


def call(self, *args, **kwargs):
    """For interpreter.InterpretedFunction.__call__, a function that a kernel calls.

    It patches all of triton.language each time, which the kernel's launch has done: half the time.
    """
    if self.fn not in patched:  # functions of triton's own may see other modules of it
        patched.add(self.fn)
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*args, **kwargs)


def launch(kernel, grid, inputs, out_shapes, num_warps, **constexprs):
    """For gpu/launch.py's _launch. What is not written, or not given but read, shows as NaN."""

    def run(*arrays):
        given = iter([np.array(x) for x in arrays])
        nothing = np.full(1, np.nan, np.float32)
        outputs = [np.full(s.shape, np.nan, s.dtype) for s in out_shapes]
        memory = [Memory(nothing if x is None else next(given)) for x in inputs]
        kernel[grid](*memory, *map(Memory, outputs), **constexprs)
        return tuple(outputs)

    present = [x for x in inputs if x is not None]
    return tuple(jax.pure_callback(run, tuple(out_shapes), *present))


def install(patch):
    """With pytest's monkeypatch."""
    patch.setattr(interpreter.ScanOps, "generic_scan", scan)
    patch.setattr(interpreter.ReduceOps, "generic_reduce", reduce)
    patch.setattr(interpreter.InterpretedFunction, "__call__", call)
