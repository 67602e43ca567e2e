"""Shapes at which the scan is measured, compiled and tested."""

from typing import NamedTuple

import numpy as np


class Workload(NamedTuple):
    b: int
    l: int  # noqa: E741  the axis is called l everywhere
    d: int
    n: int = 16


# The paper's preset at 32 x 128 x 128: tokens and channels of one branch at each resolution.
MODEL = {
    "stage1": Workload(1, 524288, 16),
    "stage2": Workload(1, 65536, 32),
    "stage3": Workload(1, 8192, 64),
    "stage4": Workload(1, 1024, 64),
}
WORKLOADS = {
    **MODEL,
    **{f"{name}-b8": x._replace(b=8) for name, x in MODEL.items()},
    "lm-130m": Workload(8, 2048, 1536),  # mamba-130m and mamba-2.8b, a training context
    "lm-2.8b": Workload(1, 2048, 5120),
    "long-4k": Workload(1, 4096, 64),
    "long-32k": Workload(1, 32768, 64),
    "long-32k-thin": Workload(1, 32768, 16),
    "long-512k": Workload(1, 524288, 64),
}


def arguments(workload: Workload, plain: bool = False) -> dict[str, np.ndarray]:
    """Arguments of `selective_scan` as Mamba starts: A = -1..-n, steps of 0.001 to 0.1.

    plain: u, delta (positive), A, B and C only; otherwise D, z and delta_bias too, and delta as it
    is before softplus.
    """
    (b, l, d, n), rng = workload, np.random.default_rng(0)  # noqa: E741

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), d))
    given = {
        "u": normal(b, l, d),
        "delta": 0.1 * normal(b, l, d),
        "A": -np.tile(np.arange(1, n + 1, dtype=np.float32), (d, 1)),
        "B": normal(b, l, n),
        "C": normal(b, l, n),
    }
    if plain:
        return given | {"delta": (step * np.exp(given["delta"])).astype(np.float32)}
    bias = step + np.log(-np.expm1(-step))
    more = {"D": np.ones(d, np.float32), "z": normal(b, l, d)}
    return given | more | {"delta_bias": bias.astype(np.float32)}
