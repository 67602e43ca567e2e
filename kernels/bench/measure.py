"""Time and memory of the selective scan beside the ways it is commonly written.

On this machine, in alternating rounds; medians of wall time.
"""

# pyright: reportMissingImports=false

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from kernels.bench import baselines
from kernels.bench.workloads import WORKLOADS, Workload, arguments
from kernels.selective_scan import selective_scan

BASELINES = {"whole": baselines.whole, "checkpointed": baselines.checkpointed}
TOO_LARGE = 1 << 30  # bytes of all states; `whole` needs several times as much
TOO_LONG = {"torch": 32768, "torch backward": 4096}  # tokens
Pass = Literal["forward", "forward+backward"]


@dataclass(frozen=True)
class Settings:
    """Measure the selective scan; all workloads that fit by default."""

    workloads: tuple[str, ...] = ("stage1", "stage2", "stage3", "stage4", "long-4k", "long-32k")
    """Names from kernels/bench/workloads.py."""
    methods: tuple[str, ...] = ("sequential", "associative", *BASELINES)
    """Implementations of `selective_scan`, and what is in kernels/bench/baselines.py."""
    torch: bool = False
    """Also the loop of PyTorch tensors that mamba's selective_scan_ref is."""
    plain: bool = False
    """Without D, z, delta_bias and softplus."""
    rounds: int = 3
    """Times that everything is run, in turn; the median counts."""
    json: Path | None = None
    """Where to write the figures, too."""
    static: bool = False
    """Registers, spills, occupancy and traffic of the GPU kernels instead; needs triton only."""


class Row(NamedTuple):
    workload: str
    method: str
    what: Pass
    ms: float
    temporaries: float | None  # MB, as XLA plans them; None where XLA does not


class Candidate(NamedTuple):
    """run: its result may still be under way."""

    method: str
    what: Pass
    run: Callable[[], Any]
    temporaries: float | None


def candidates(workload: Workload, settings: Settings) -> list[Candidate]:
    """What is measured at a workload, compiled and run once."""
    given = arguments(workload, settings.plain)
    dy = np.random.default_rng(1).standard_normal(given["u"].shape, np.float32)
    softplus = not settings.plain
    found = []
    for method in settings.methods:
        if method == "whole" and 4 * given["u"].size * workload.n > TOO_LARGE:
            continue
        scan = BASELINES.get(method) or partial(selective_scan, implementation=method)
        found += _jax_candidates(method, partial(scan, delta_softplus=softplus), given, dy)
    if settings.torch and workload.l <= TOO_LONG["torch"]:
        found += _torch_candidates(given, dy, softplus)
    return found


def _jax_candidates(
    method: str, scan: Callable[..., Any], given: dict[str, np.ndarray], dy: np.ndarray
) -> list[Candidate]:
    def forward(given: dict[str, jax.Array], _dy: jax.Array) -> jax.Array:
        return scan(**given)

    def backward(given: dict[str, jax.Array], dy: jax.Array) -> Any:
        return jax.grad(lambda given: jnp.sum(scan(**given) * dy))(given)

    found = []
    args = jax.device_put((given, dy))
    passes: dict[Pass, Callable[..., Any]] = {"forward": forward, "forward+backward": backward}
    for what, function in passes.items():
        compiled = jax.jit(function, keep_unused=True).lower(*args).compile()
        memory = compiled.memory_analysis()
        megabytes = None if memory is None else memory.temp_size_in_bytes / 2**20
        found.append(Candidate(method, what, partial(compiled, *args), megabytes))
    return found


def _torch_candidates(
    given: dict[str, np.ndarray], dy: np.ndarray, softplus: bool
) -> list[Candidate]:
    import torch

    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    wanted = [x.clone().requires_grad_() for x in tensors.values()]

    def forward() -> None:
        with torch.no_grad():
            baselines.torch_loop(**tensors, delta_softplus=softplus)

    def backward() -> None:
        named = dict(zip(tensors, wanted, strict=True))
        y = baselines.torch_loop(**named, delta_softplus=softplus)
        torch.autograd.grad(y, wanted, torch.from_numpy(dy))

    found = [Candidate("torch", "forward", forward, None)]
    if dy.shape[1] <= TOO_LONG["torch backward"]:
        found.append(Candidate("torch", "forward+backward", backward, None))
    return found


def measure(name: str, settings: Settings) -> list[Row]:
    """The median of `rounds` turns of every candidate, after one that does not count."""
    found = candidates(WORKLOADS[name], settings)
    times: list[list[float]] = [[] for _ in found]
    for turn in range(settings.rounds + 1):
        for candidate, own in zip(found, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(candidate.run())
            if turn:
                own.append(1e3 * (time.perf_counter() - start))
    return [
        Row(name, c.method, c.what, statistics.median(own), c.temporaries)
        for c, own in zip(found, times, strict=True)
    ]


def table(rows: list[Row]) -> str:
    """Of one workload: forward / forward+backward in ms [temporary MB of the latter]."""
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = {row.what: row for row in rows if row.method == method}
        both = own.get("forward+backward")
        right = "" if both is None else f"{both.ms:12.1f}"
        memory = "" if both is None or both.temporaries is None else f"{both.temporaries:10.1f}"
        lines.append(f"{method:14}{own['forward'].ms:10.1f}{right:>12}{memory:>10}")
    return "\n".join(lines)
