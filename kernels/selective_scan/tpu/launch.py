"""The scan on TPUs: Pallas kernels, which take a sequence block by block and carry the state.

The grid goes over batch, blocks of channels and blocks of tokens; the last follow one another in
time, or the other way for gradients. The states that enter columns of tokens are kept for the
backward pass, one per column in the first of the entries; the others are zeros. Sums over tokens
are added up in the order of the blocks: results are the same bit for bit each time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan.form import Arguments, Entries, Options, State, Tokens
from kernels.selective_scan.tpu.arrays import Arrays, Block
from kernels.selective_scan.tpu.backward import backward_kernel
from kernels.selective_scan.tpu.kernels import Refs, forward_kernel
from kernels.selective_scan.tpu.plan import LANES, LIMIT, Plan
from kernels.selective_scan.varying import shape_over

_interpret: ContextVar[Any] = ContextVar("interpret", default=False)


def forward(args: Arguments, options: Options) -> tuple[Tokens, State, Entries]:
    """y in u's type, the last state, and the states that enter the columns."""
    arrays = Arrays(args, options, backward=False)
    found = _call(
        forward_kernel,
        arrays,
        arrays.inputs(args) | {"h0": (arrays.states(args.h0), arrays.per_batch())},
        {
            "y": arrays.tokens_block(args.u),
            "last": arrays.per_batch(),
            "entries": arrays.entries_block(),
        },
    )
    y, last, entries = (found[name] for name in ("y", "last", "entries"))
    return arrays.natural(y, args.u), arrays.natural_states(last), arrays.natural_entries(entries)


def backward(
    args: Arguments, entries: Entries, dy: Tokens, dlast: State, options: Options
) -> Arguments:
    """The gradients of every argument that is not None."""
    arrays = Arrays(args, options, backward=True)
    scan = arrays.plan.scan
    outputs = {
        "du": arrays.tokens_block(args.u),
        "ddelta": arrays.tokens_block(args.delta),
        "dA": arrays.per_batch(),
        "dB": arrays.gradient_block(args.B),
        "dC": arrays.gradient_block(args.C),
        "dh0": arrays.per_batch(),
    }
    if args.z is not None:
        outputs["dz"] = arrays.tokens_block(args.z)
    outputs |= {
        k: arrays.sums_block() for k, has in (("dD", scan.skip), ("dbias", scan.bias)) if has
    }
    found = _call(
        backward_kernel,
        arrays,
        arrays.inputs(args)
        | {
            "dy": (arrays.tokens(dy), arrays.tokens_block(dy)),
            "dlast": (arrays.states(dlast), arrays.per_batch()),
            "entries": (arrays.kernel_entries(entries), arrays.entries_block()),
        },
        outputs,
    )
    return Arguments(
        u=arrays.natural(found["du"], args.u),
        delta=arrays.natural(found["ddelta"], args.delta),
        A=jnp.sum(arrays.natural_states(found["dA"]), axis=0),
        B=arrays.natural_gradient(found["dB"], args.B),
        C=arrays.natural_gradient(found["dC"], args.C),
        D=arrays.natural_sums(found["dD"]) if scan.skip else None,
        z=None if args.z is None else arrays.natural(found["dz"], args.z),
        delta_bias=arrays.natural_sums(found["dbias"]) if scan.bias else None,
        h0=arrays.natural_states(found["dh0"]),
    )


def unavailable() -> str | None:
    """Why the kernels cannot be called here; they need nothing but JAX."""
    return None


@contextmanager
def interpreting(how: Any = True) -> Iterator[None]:
    """Run the kernels on any platform; `how` may be a pltpu.InterpretParams.

    A function that jax.jit has traced before is not traced again: start with a new one.
    """
    token = _interpret.set(how)
    try:
        yield
    finally:
        _interpret.reset(token)


def _call(
    kernel: Callable[[Plan, Refs], None],
    arrays: Arrays,
    inputs: dict[str, tuple[Array, Block]],
    outputs: dict[str, Block],
) -> dict[str, Array]:
    plan = arrays.plan
    names = (*inputs, *outputs, *plan.scratch)

    def body(*refs: Any) -> None:
        kernel(plan, dict(zip(names, refs, strict=True)))

    call = pl.pallas_call(
        body,
        grid=(plan.scan.b, arrays.blocks, plan.token_blocks),
        in_specs=[block.spec for _, block in inputs.values()],
        out_specs=[block.spec for block in outputs.values()],
        out_shape=[shape_over(arrays.axes, x.shape, x.dtype) for x in outputs.values()],
        scratch_shapes=[pltpu.VMEM((rows, LANES), jnp.float32) for rows in plan.scratch.values()],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=LIMIT
        ),
        interpret=_interpret.get(),
        name=f"selective_scan_{'backward' if plan.backward else 'forward'}",
    )
    return dict(zip(outputs, call(*(array for array, _ in inputs.values())), strict=True))
