"""Times of the scan on this device beside the ways it is commonly written, and beside its memory.

A program: `python -m kernels.device_check.speed`; one line of JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from kernels.bench.measure import Settings, candidates
from kernels.bench.workloads import WORKLOADS, Workload
from kernels.selective_scan import explain

AT_LEAST = 0.02  # seconds of one measurement
COPIED = 1 << 30  # bytes


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Of one call, with those before it still under way; median of the rounds."""

    def turn(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            last = run()
        jax.block_until_ready(last)
        return (time.perf_counter() - start) / count

    turn(1)
    count = max(1, min(1000, int(AT_LEAST / turn(2))))
    return statistics.median(turn(count) for _ in range(rounds))


def bandwidth(size: int, rounds: int) -> float:
    """Bytes per second that a copy reads and writes."""
    x = jnp.zeros(size // 4)
    copy = jax.jit(lambda x: x + 1.0)
    return 2 * size / seconds(lambda: copy(x), rounds)


def ideal(workload: Workload) -> tuple[int, int]:
    """Bytes that forward, and forward and backward, move at least: see traffic.predict."""
    b, l, d, n = workload  # noqa: E741
    read, y = 4 * b * l * (3 * d + 2 * n), 4 * b * l * d
    return read + y, 2 * (read + y) + read


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--dry", action="store_true", help="small workloads, once")
    options.add_argument("--seconds", type=float, default=150)
    asked = options.parse_args()
    until, rounds = time.monotonic() + asked.seconds, 1 if asked.dry else 5
    names = ("stage4",) if asked.dry else tuple(WORKLOADS)
    own = explain().split(":")[0].split(",")[0]
    methods = tuple(dict.fromkeys((own, "associative", "checkpointed")))
    speed = bandwidth(COPIED >> (6 if asked.dry else 0), rounds)
    rows = []
    for name in names:
        if time.monotonic() > until:
            break
        least = dict(zip(("forward", "forward+backward"), ideal(WORKLOADS[name]), strict=True))
        for x in candidates(WORKLOADS[name], Settings(methods=methods)):
            taken = seconds(x.run, rounds)
            rows.append(
                {
                    "workload": name,
                    "method": x.method,
                    "what": x.what,
                    "ms": 1e3 * taken,
                    "share of the ideal": least[x.what] / speed / taken,
                    "temporary MB": x.temporaries,
                }
            )
    found = {"device": jax.devices()[0].device_kind, "bandwidth": speed, "rows": rows}
    print(json.dumps(found | {"left out": list(names[len({r["workload"] for r in rows}) :])}))


if __name__ == "__main__":
    main()
