"""The scan on NVIDIA GPUs: Triton kernels called through jax-triton.

Chunks are independent but for the state that passes between them, so both passes first find what
each chunk adds to it (chunk_states, chunk_adjoints), then carry it through the chunks, then do the
work of all chunks at once (outputs, gradients). Besides the arguments, only the states that enter
the chunks are saved. Nothing is added atomically: results are the same bit for bit each time.
"""

# pyright: reportMissingImports=false

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from triton import knobs

from kernels.selective_scan.form import Arguments, Entries, Options, State, Tokens
from kernels.selective_scan.gpu.backward import gradients
from kernels.selective_scan.gpu.kernels import carry, chunk_adjoints, chunk_states, outputs
from kernels.selective_scan.gpu.plan import Plan, carry_tile, gpu_tiles
from kernels.selective_scan.sizes import Scan, cdiv

Shape = jax.ShapeDtypeStruct
_capability: ContextVar[int | None] = ContextVar("capability", default=None)


def forward(args: Arguments, options: Options) -> tuple[Tokens, State, Entries]:
    """y in u's type, the last state, and the states that enter the chunks."""
    scan = Scan.of(args, options)
    entries = args.h0[:, None]
    if scan.chunks > 1:
        plan = Plan(scan, gpu_tiles("chunk_states", scan))
        local, sums = _launch(
            chunk_states,
            (scan.b * (scan.chunks - 1) * scan.g * plan.blocks,),
            (args.u, args.delta, args.A, args.B, args.delta_bias),
            _local(scan),
            plan.tile.warps,
            S=plan,
        )
        entries = _carried(scan, args.A, local, sums, args.h0, backward=False)
    plan = Plan(scan, gpu_tiles("outputs", scan))
    y, last = _launch(
        outputs,
        (scan.b * scan.chunks * scan.g * plan.blocks,),
        (*args[:8], entries),
        (_like(args.u), _float32(scan.b, scan.d, scan.n)),
        plan.tile.warps,
        S=plan,
    )
    return y, last, entries


def backward(
    args: Arguments, entries: Entries, dy: Tokens, dlast: State, options: Options
) -> Arguments:
    """The gradients of every argument that is not None."""
    scan = Scan.of(args, options)
    adjoints = dlast[:, None]
    if scan.chunks > 1:
        plan = Plan(scan, gpu_tiles("chunk_adjoints", scan))
        local, sums = _launch(
            chunk_adjoints,
            (scan.b * (scan.chunks - 1) * scan.g * plan.blocks,),
            (args.delta, args.A, args.C, args.z, args.delta_bias, dy),
            _local(scan),
            plan.tile.warps,
            S=plan,
        )
        adjoints = _carried(scan, args.A, local, sums, dlast, backward=True)
    plan = Plan(scan, gpu_tiles("gradients", scan))
    per_state = _float32(scan.b, scan.chunks, scan.d, scan.n)
    per_channel = _float32(scan.b, scan.chunks, scan.d)
    absent = _float32(1)
    du, ddelta, dA, dB, dC, dD, dz, dbias, dh0 = _launch(
        gradients,
        (scan.b * scan.chunks * scan.g * plan.tile.splits,),
        (*args[:8], dy, entries, adjoints),
        (
            _like(args.u),
            _like(args.delta),
            per_state,
            _partial(plan, args.B) if scan.B_varies else per_state,
            _partial(plan, args.C) if scan.C_varies else per_state,
            per_channel if scan.skip else absent,
            absent if args.z is None else _like(args.z),
            per_channel if scan.bias else absent,
            _float32(scan.b, scan.d, scan.n),
        ),
        plan.tile.warps,
        S=plan,
    )
    return Arguments(
        du,
        ddelta,
        _over_chunks(dA),
        _over_splits(dB, args.B) if scan.B_varies else _over_chunks(dB),
        _over_splits(dC, args.C) if scan.C_varies else _over_chunks(dC),
        _over_chunks(dD) if scan.skip else None,
        dz if scan.gate else None,
        _over_chunks(dbias) if scan.bias else None,
        dh0,
    )


@cache
def unavailable() -> str | None:
    """Why the kernels cannot be called here, and what would help; None if they can."""
    try:
        ours, jaxs = version("jax-triton"), version("jax")
    except PackageNotFoundError:
        return "jax-triton is not installed; pip install 'jax[cuda12]' jax-triton triton"
    release = [tuple(int(x) for x in v.split(".")[:3] if x.isdigit()) for v in (ours, jaxs)]
    if (0, 4) <= release[0] <= (0, 4, 1) and release[1] >= (0, 12):
        return (
            f"jax-triton {ours} cannot be called from jax {jaxs}, which passes its rule for dead "
            "code one more argument; jax 0.11.2 works with it, jax 0.10.2 with jax-triton 0.3.1"
        )
    try:
        import jax_triton  # noqa: F401
    except Exception as error:  # an incompatible pair fails in many ways
        return f"jax-triton {ours} cannot be imported: {error}; pip install 'jax[cuda12]'"
    return None


@contextmanager
def compiling_for(capability: int) -> Iterator[None]:
    """Trace for GPUs of this compute capability (80, 90, ...), which need not be here.

    A function that jax.jit has traced before is not traced again: start with a new one.
    """
    token = _capability.set(capability)
    try:
        yield
    finally:
        _capability.reset(token)


def _carried(
    scan: Scan, A: Array, local: Array, sums: Array, first: Array, backward: bool
) -> Array:
    """(b c d n): what enters the chunks; backward, from their other side."""
    plan = Plan(scan, carry_tile(scan))
    (entering,) = _launch(
        carry,
        (scan.b * cdiv(scan.d * scan.n, plan.tile.D),),
        (local, sums, A, first),
        (_float32(scan.b, scan.chunks, scan.d, scan.n),),
        plan.tile.warps,
        BACKWARD=backward,
        S=plan,
    )
    return entering


def _float32(*shape: int) -> Shape:
    return Shape(shape, jnp.float32)


def _like(x: Array) -> Shape:
    return Shape(x.shape, x.dtype)


def _local(scan: Scan) -> tuple[Shape, Shape]:
    """What all chunks but one pass on, and the sums of their steps."""
    before = scan.b, scan.chunks - 1, scan.d
    return _float32(*before, scan.n), _float32(*before)


def _partial(plan: Plan, M: Array) -> Shape:
    """Sums over the channels of each program: in M's type if there is nothing to add to them."""
    scan = plan.scan
    dtype = M.dtype if plan.blocks == 1 else jnp.float32
    return Shape((scan.b, plan.tile.splits, scan.l, scan.g, scan.n), dtype)


def _over_splits(partial: Array, M: Array) -> Array:
    whole = partial[:, 0] if partial.shape[1] == 1 else jnp.sum(partial, axis=1)
    return whole.astype(M.dtype)


def _over_chunks(partial: Array) -> Array:
    return jnp.sum(partial, axis=(0, 1))


def _launch(
    kernel: Any,
    grid: tuple[int],
    inputs: Sequence[Array | None],
    out_shapes: Sequence[Shape],
    num_warps: int,
    **constexprs: Any,
) -> tuple[Array, ...]:
    """Call a kernel. For an absent input any pointer will do: it is not read."""
    import jax_triton

    _write_older_ptx()
    call = jax_triton.triton_call
    shapes = "out_type" if "out_type" in inspect.signature(call).parameters else "out_shape"
    present = next(x for x in inputs if x is not None)
    name = f"selective_scan_{kernel.__name__}"
    with jax.named_scope(name):  # for profiles
        out = call(
            *(present if x is None else x for x in inputs),
            kernel=kernel,
            grid=grid,
            name=name,
            num_warps=num_warps,
            num_stages=1,
            compute_capability=_capability.get(),
            **{shapes: tuple(out_shapes)},
            **constexprs,
        )
    return tuple(out)


@cache
def _write_older_ptx() -> None:
    """Let triton write the PTX version of its older assembler, which XLA's can read.

    jax-triton hands PTX to XLA. For capabilities from 90 on, triton 3.9 writes version 9.4, that of
    its ptxas-blackwell (CUDA 13.4); XLA with CUDA 12.9 stops at 8.8, the version of triton's ptxas.
    jax-triton 0.3.1 does not pass the compiler's option ptx_version on. A path that the user has
    set is left alone.
    """
    newer = hasattr(knobs.nvidia, "ptxas_blackwell")
    if newer and "TRITON_PTXAS_BLACKWELL_PATH" not in os.environ:
        knobs.nvidia.ptxas_blackwell = knobs.nvidia.ptxas.path
