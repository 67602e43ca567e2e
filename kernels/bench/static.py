"""What Triton makes of the GPU kernels, without a GPU: `python -m kernels.bench --static`.

Prints registers, spills, occupancy and the like of every kernel, compiled for A100 and H100 at the
tile sizes of some workloads, and the memory traffic predicted for these.
"""

# pyright: reportMissingImports=false

import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import triton
from jax import numpy as jnp
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.bench import traffic
from kernels.bench.traffic import Launch, Shapes
from kernels.bench.workloads import WORKLOADS, Workload
from kernels.selective_scan.form import Options, chunk_length

COMPILED = ("stage1", "stage3", "lm-130m")  # one for each choice of tiles
CAPABILITIES = (80, 90)
DTYPES = ("float32", "bfloat16")

POINTERS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
# Of a multiprocessor of capability 8.0 and 9.0 alike, but for its shared memory.
WARPS, BLOCKS, REGISTERS = 64, 32, 65536
SHARED = {80: 164 * 1024, 90: 228 * 1024}


class Resources(NamedTuple):
    """Of one kernel's machine code."""

    kernel: str
    capability: int
    dtype: str
    tile: str
    warps: int
    registers: int
    spills: int  # instructions that access local memory
    local: int  # bytes of it, per thread
    shared: int
    occupancy: int  # warps on a multiprocessor, of 64
    # In the longest of the innermost loops, that over the tiles:
    instructions: float  # per element of a tile (b l d n) and thread
    shuffles: float  # likewise
    barriers: int  # per tile


def shapes(workload: Workload, dtype: str) -> tuple[Shapes, Options]:
    chunk = chunk_length(workload.b, workload.l, workload.d)
    options = Options(delta_softplus=True, reverse=False, chunk=chunk)
    return traffic.shapes(*workload, dtype=jnp.dtype(dtype)), options


def resources(workload: Workload, dtype: str, capability: int) -> Iterator[Resources]:
    """Of all kernels that a forward and a backward pass launch."""
    forward, backward = traffic.launches(*shapes(workload, dtype))
    for launch in (*forward, *(x for x in backward if x.kernel.__name__ != "carry")):
        yield inspect(launch, capability, dtype)


def inspect(launch: Launch, capability: int, dtype: str) -> Resources:
    binary = build(launch, capability)
    tile = launch.constexprs["S"].tile
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, code = (_cuobjdump(option, file.name) for option in ("-res-usage", "-sass"))
    registers, stack, local = (
        int(re.search(rf"{name}:(\d+)", usage)[1])  # pyright: ignore[reportOptionalSubscript]
        for name in ("REG", "STACK", "LOCAL")
    )
    loop = max(_innermost_loops(code), key=len)
    elements = tile.T * tile.R * max(1, tile.D * tile.J // (32 * launch.warps))
    return Resources(
        kernel=launch.kernel.__name__,
        capability=capability,
        dtype=dtype,
        tile=f"{tile.T}x{tile.D}x{tile.R}x{tile.J}",
        warps=launch.warps,
        registers=registers,
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        local=stack + local,
        shared=binary.metadata.shared,
        occupancy=occupancy(launch.warps, registers, binary.metadata.shared, capability),
        instructions=len(loop) / elements,
        shuffles=sum("SHFL" in x for x in loop) / elements,
        barriers=sum("BAR.SYNC" in x for x in loop),
    )


def build(launch: Launch, capability: int) -> Any:
    """Compile as jax-triton does: pointers aligned to 16 bytes, one stage, fused multiply-add."""
    names = launch.kernel.arg_names
    absent = next(x for x in launch.inputs if x is not None)
    arrays = [absent if x is None else x for x in launch.inputs] + list(launch.outputs)
    signature = {k: POINTERS[str(x.dtype)] for k, x in zip(names, arrays, strict=False)}
    signature |= dict.fromkeys(launch.constexprs, "constexpr")
    source = ASTSource(
        fn=launch.kernel,
        signature=signature,
        constexprs={(names.index(k),): v for k, v in launch.constexprs.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(arrays))},
    )
    options = {"num_warps": launch.warps, "num_stages": 1, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def occupancy(warps: int, registers: int, shared: int, capability: int) -> int:
    """Warps that a multiprocessor holds at a time; registers come in units of 256 per warp, and a
    block takes 1 KB more of shared memory than it asks for."""
    per_warp = -(-registers * 32 // 256) * 256
    fit = min(BLOCKS, WARPS // warps, REGISTERS // per_warp // warps)
    return warps * min(fit, SHARED[capability] // (shared + 1024))


def _cuobjdump(option: str, path: str) -> str:
    tool = knobs.nvidia.cuobjdump.path
    return subprocess.run(
        [tool, option, path], capture_output=True, encoding="utf-8", check=True
    ).stdout


def _innermost_loops(code: str) -> list[list[str]]:
    """The instructions from the target of a backward branch to the branch, where none is within."""
    lines = [
        (int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(\S.*?);", code)
    ]
    spans = [
        (int(target[1], 16), at)
        for at, text in lines
        if (target := re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)) and int(target[1], 16) < at
    ]
    inner = [x for x in spans if not any(x[0] <= a and b <= x[1] for a, b in spans if (a, b) != x)]
    return [[text for at, text in lines if a <= at <= b] for a, b in inner] or [[]]


def main() -> None:
    print(" ".join(f"{name:>13}" for name in ("workload", *Resources._fields)))
    for name in COMPILED:
        for capability in CAPABILITIES:
            for dtype in DTYPES:
                for row in resources(WORKLOADS[name], dtype, capability):
                    values = (f"{x:.1f}" if isinstance(x, float) else str(x) for x in row)
                    print(" ".join(f"{x:>13}" for x in (name, *values)), flush=True)
    print("\nBytes moved per element of u, and as a multiple of the ideal; float32")
    for name, workload in WORKLOADS.items():
        elements = workload.b * workload.l * workload.d
        passes = traffic.predict(*shapes(workload, "float32"))
        columns = (f"{x.moved / elements:8.1f} {x.ratio:6.2f}" for x in passes)
        print(f"{name:>13}  forward {'  backward '.join(columns)}")
