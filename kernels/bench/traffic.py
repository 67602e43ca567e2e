"""How many bytes the Triton kernels move between a GPU and its memory, from what is launched.

Every launch is taken to read each of its inputs from HBM once and to write each of its outputs
once. What programs share or read again is taken to be in the cache: the B and C of a chunk, which
neighbouring programs read at the same time, and the tiles that `gradients` goes over twice.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
from jax import numpy as jnp

from kernels.selective_scan.form import Arguments, Options
from kernels.selective_scan.gpu import launch as gpu

Shapes: TypeAlias = dict[str, jax.ShapeDtypeStruct]


class Launch(NamedTuple):
    kernel: Any
    grid: tuple[int]
    inputs: tuple[jax.ShapeDtypeStruct | None, ...]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    warps: int
    constexprs: dict[str, Any]

    @property
    def bytes(self) -> int:
        return sum(map(nbytes, self.inputs)) + sum(map(nbytes, self.outputs))


class Traffic(NamedTuple):
    """Bytes of a pass, and the least there can be."""

    moved: int
    ideal: int

    @property
    def ratio(self) -> float:
        return self.moved / self.ideal


def nbytes(x: Any) -> int:
    return 0 if x is None else x.size * x.dtype.itemsize


def shapes(
    b: int,
    l: int,  # noqa: E741
    d: int,
    n: int,
    dtype: Any = jnp.float32,
) -> Shapes:
    """Of the arguments of a scan with all that is optional, by name."""

    def shape(*axes: int, of: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(axes, of)

    tokens, projection = shape(b, l, d, of=dtype), shape(b, l, 1, n, of=dtype)
    found = dict.fromkeys(("u", "delta", "z"), tokens) | dict.fromkeys(("B", "C"), projection)
    return found | {"A": shape(d, n), "D": shape(d), "delta_bias": shape(d), "h0": shape(b, d, n)}


def launches(args: Shapes, options: Options) -> tuple[list[Launch], list[Launch]]:
    """Of a forward and of a backward pass, whether or not there is a GPU."""
    recorded: list[Launch] = []

    def record(
        kernel: Any,
        grid: tuple[int],
        inputs: Sequence[Any],
        out_shapes: Sequence[jax.ShapeDtypeStruct],
        num_warps: int,
        **constexprs: Any,
    ) -> tuple[jax.Array, ...]:
        given = tuple(None if x is None else jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs)
        recorded.append(Launch(kernel, grid, given, tuple(out_shapes), num_warps, constexprs))
        return tuple(jnp.zeros(s.shape, s.dtype) for s in out_shapes)

    launch, gpu._launch = gpu._launch, record
    try:
        y, last, entries = jax.eval_shape(lambda a: gpu.forward(Arguments(**a), options), args)
        forward, recorded = recorded, []
        jax.eval_shape(
            lambda a, entries, dy, dlast: gpu.backward(Arguments(**a), entries, dy, dlast, options),
            args, entries, y, last,
        )  # fmt: skip
    finally:
        gpu._launch = launch
    return forward, recorded


def predict(args: Shapes, options: Options) -> tuple[Traffic, Traffic]:
    """Of a forward and of a backward pass.

    Ideally forward reads u, delta, z, B and C once and writes y; backward reads them and dy and
    writes the gradients of all arguments.
    """
    forward, backward = launches(args, options)
    read = sum(map(nbytes, (args[name] for name in ("u", "delta", "z", "B", "C"))))
    y = nbytes(args["u"])
    # XLA adds up the partial gradients of A, B, C, D and delta_bias, unless they are whole already.
    summed = 0
    partials = dict(zip(Arguments._fields, backward[-1].outputs, strict=True))
    for name in ("A", "B", "C", "D", "delta_bias"):
        whole = nbytes(partials[name]) == nbytes(args[name])
        summed += 0 if whole else nbytes(partials[name]) + nbytes(args[name])
    return (
        Traffic(sum(x.bytes for x in forward), read + y),
        Traffic(
            sum(x.bytes for x in backward) + summed, read + y + sum(map(nbytes, args.values()))
        ),
    )
