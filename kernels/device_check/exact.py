"""The scan on this device against its definition in float64, values and all gradients.

A program: `python -m kernels.device_check.exact --drawn 200 --seconds 150`; one line of JSON.
"""

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from kernels.selective_scan import explain, selective_scan

TOLERANCE = 1e-5
"""Of float32, as a share of an array's largest value; or SLACK times the error of the scan that
takes one token after the other in float32, where sums cancel, but never more than MOST."""
SLACK, MOST = 4.0, 1e-4
ROUNDING = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
OPTIONAL = ("D", "z", "delta_bias", "h0")
TOKENS = ("u", "delta", "B", "C", "z")  # in the type of the case, where they vary with the tokens


class Case(NamedTuple):
    """B, C: varying, grouped, constant. without: what is not given of OPTIONAL."""

    b: int
    l: int  # noqa: E741  the axis is called l everywhere
    d: int
    n: int
    g: int = 1
    B: str = "varying"
    C: str = "varying"
    without: tuple[str, ...] = ()
    softplus: bool = True
    reverse: bool = False
    dtype: str = "float32"


SUITE = (
    Case(2, 1, 4, 1, 2, "grouped", "grouped"),
    Case(1, 31, 2, 16, C="constant", reverse=True),
    Case(2, 32, 4, 3, 2, "grouped", "constant"),
    Case(2, 33, 4, 3, B="constant", reverse=True),
    Case(1, 130, 3, 3, B="constant", C="constant"),
    Case(1, 130, 12, 3, 2, "grouped", "grouped", reverse=True),
    Case(2, 80, 4, 3, without=OPTIONAL, softplus=False),
    Case(1, 1134, 100, 24),
    Case(1, 5000, 64, 16, reverse=True),
    Case(2, 2048, 256, 16, 2, "grouped", "grouped"),
    Case(1, 700, 136, 64),
    *(Case(1, 1000, 12, 16, dtype=dtype) for dtype in ("bfloat16", "float16")),
)
LENGTHS, WIDTHS, STATES = (1, 2, 63, 64, 65, 127, 130, 600, 1100), (1, 2, 5, 16, 40), (1, 3, 16, 17)


def drawn(count: int) -> Iterator[Case]:
    rng = np.random.default_rng(0)

    def one(values: Any) -> Any:
        return values[rng.integers(len(values))]

    for _ in range(count):
        groups = one((1, 2, 3))
        varying = "varying" if groups == 1 else "grouped"
        yield Case(
            one((1, 3)),
            one(LENGTHS),
            groups * one(WIDTHS),
            one(STATES),
            groups,
            one((varying, "constant")),
            one((varying, "constant")),
            tuple(name for name in OPTIONAL if rng.integers(2)),
            bool(rng.integers(2)),
            bool(rng.integers(2)),
        )


def arguments(case: Case, seed: int) -> dict[str, np.ndarray]:
    """In float32, of values that the case's type has."""
    rng = np.random.default_rng(seed)
    b, l, d, n, g = case[:5]  # noqa: E741
    shapes = {"varying": (b, l, n), "grouped": (b, l, g, n), "constant": (d, n)}

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    given = {
        "u": normal(b, l, d),
        "delta": normal(b, l, d),
        "A": -np.exp(normal(d, n)),
        "B": normal(*shapes[case.B]),
        "C": normal(*shapes[case.C]),
        "D": normal(d),
        "z": normal(b, l, d),
        "delta_bias": normal(d) - 1,
        "h0": normal(b, d, n),
    }
    if not case.softplus:
        given |= {name: np.abs(given[name]) for name in ("delta", "delta_bias")}
    given = {name: x for name, x in given.items() if name not in case.without}
    return given | {
        name: np.asarray(jnp.asarray(x, case.dtype), np.float32)
        for name, x in given.items()
        if name in TOKENS and x.ndim > 2
    }


def weights(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Of y and of the last state, of values that the case's type has."""
    rng = np.random.default_rng(1)
    dy = rng.standard_normal((case.b, case.l, case.d), np.float32)
    dlast = rng.standard_normal((case.b, case.d, case.n), np.float32)
    return np.asarray(jnp.asarray(dy, case.dtype), np.float32), dlast


def results(case: Case, given: dict[str, Any], implementation: str | None) -> dict[str, Any]:
    """y, the last state, and the gradients of the sum of both, weighted."""
    scan = partial(
        selective_scan,
        delta_softplus=case.softplus,
        reverse=case.reverse,
        return_last_state=True,
        implementation=implementation,
    )

    def run(given: dict[str, Any], dy: jax.Array, dlast: jax.Array) -> dict[str, Any]:
        (y, last), pull = jax.vjp(lambda given: scan(**given), given)
        (slopes,) = pull((dy.astype(y.dtype), dlast.astype(last.dtype)))
        return {"y": y, "last": last} | {f"d{name}": x for name, x in slopes.items()}

    return jax.jit(run)(given, *weights(case))


def of_definition(case: Case, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """In float64, on the CPU."""
    cpu = jax.devices("cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        wide = {name: jnp.asarray(x, jnp.float64) for name, x in given.items()}
        return {k: np.asarray(x) for k, x in results(case, wide, "reference").items()}


def errors(got: dict[str, Any], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each, as a share of its largest value."""
    return {
        name: float(np.max(np.abs(np.float64(got[name]) - x)) / max(np.max(np.abs(x)), 1e-30))
        for name, x in wanted.items()
    }


def check(case: Case, seed: int) -> tuple[float, list[str]]:
    """The largest error, and what is wrong."""
    given = arguments(case, seed)
    typed = {
        name: jnp.asarray(x, case.dtype if name in TOKENS and x.ndim > 2 else None)
        for name, x in given.items()
    }
    first, second = (jax.device_get(results(case, typed, None)) for _ in range(2))
    wrong = [
        f"{k}: not the same twice" for k, x in first.items() if x.tobytes() != second[k].tobytes()
    ]
    wanted = of_definition(case, given)
    found = errors(first, wanted)
    allowed = TOLERANCE + ROUNDING[case.dtype]
    if not max(found.values()) < allowed:
        with jax.default_device(jax.devices("cpu")[0]):
            plain = errors(jax.device_get(results(case, typed, "sequential")), wanted)
        far = {k: x for k, x in found.items() if not x < max(allowed, min(SLACK * plain[k], MOST))}
        wrong += [f"{name}: {x:.1e}" for name, x in far.items()]
    return max(found.values()), wrong


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--drawn", type=int, default=200)
    options.add_argument("--seconds", type=float, default=150)
    options.add_argument("--one", action="store_true", help="a small case alone, for a sanitizer")
    options.add_argument("--few", action="store_true", help="of the suite its small cases alone")
    asked = options.parse_args()
    until = time.monotonic() + asked.seconds
    suite = [x for x in SUITE if not asked.few or x.l < 100]
    cases = SUITE[5:6] if asked.one else (*suite, *drawn(asked.drawn))
    found: dict[str, Any] = {"implementation": explain(), "asked": len(cases), "cases": 0}
    largest, failed = {}, []
    for seed, case in enumerate(cases):
        if time.monotonic() > until and seed >= len(suite):
            break
        error, wrong = check(case, seed)
        largest[case.dtype] = max(error, largest.get(case.dtype, 0.0))
        failed += [f"{case}: {', '.join(wrong)}"] if wrong else []
        found["cases"] += 1
    print(json.dumps(found | {"largest error": largest, "failed": failed}))


if __name__ == "__main__":
    main()
