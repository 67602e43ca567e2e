"""Frames between any key frames of a cycle, one gap after the other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32

from mstg_jax.methods.base import USUAL_SHARE, Method, Model, generate_sequence

USUAL_CYCLE = 10 / USUAL_SHARE
"""Steps of a cycle of unknown length."""
Volumes: TypeAlias = Float32[np.ndarray, "_ d h w"]


class Gap(NamedTuple):
    """Wanted times strictly between two neighbouring keys.

    first, last: of the keys; wanted: positions among the wanted times; gammas: their places in the
    gap; span: the share of the cycle that the gap takes, and its steps, see methods.base.Ends.
    """

    first: int
    last: int
    wanted: list[int]
    gammas: Float32[np.ndarray, " t"]
    span: tuple[float, float]


def gaps(at: Sequence[float], wanted: Sequence[float], period: float | None) -> list[Gap]:
    """The gaps that wanted times lie in.

    at: times of the keys, increasing, in steps from frame to frame. period: the cycle's length,
    after whose end the first key comes again; None where it does not. Raises ValueError for a
    wanted time that no two keys enclose.
    """
    ends = [(i, i + 1, at[i], at[i + 1]) for i in range(len(at) - 1)]
    if period is not None:
        ends.append((len(at) - 1, 0, at[-1], at[0] + period))
    found, seen = list[Gap](), set(at)
    for first, last, start, end in ends:
        own = [i for i, time in enumerate(wanted) if start < time < end]
        if own:
            length = end - start
            gammas = np.array([(wanted[i] - start) / length for i in own], np.float32)
            share = min(1.0, length / (period or USUAL_CYCLE))
            found.append(Gap(first, last, own, gammas, (share, max(2.0, length))))
            seen |= {wanted[i] for i in own}
    if missing := [time for time in wanted if time not in seen]:
        raise ValueError(f"no two keys at {list(at)} enclose the times {missing}")
    return found


def fill(
    method: Method,
    model: Model,
    keys: Volumes,
    at: Sequence[float],
    wanted: Sequence[float],
    *,
    period: float | None = None,
    seed: int = 0,
) -> Volumes:
    """Frames at the wanted times, on the keys' grid: a key itself at its own time, else generated
    in its gap; times as in `gaps`."""

    def make(gap: Gap) -> Volumes:
        ends = keys[gap.first], keys[gap.last]
        return generate_sequence(method, model, *ends, gap.gammas, seed, gap.span).frames

    return _filled(keys, at, wanted, gaps(at, wanted, period), make)


def linear(
    keys: Volumes, at: Sequence[float], wanted: Sequence[float], *, period: float | None = None
) -> Volumes:
    """`fill` by a blend that is linear in time."""

    def make(gap: Gap) -> Volumes:
        share = gap.gammas[:, None, None, None]
        return (1 - share) * keys[gap.first] + share * keys[gap.last]

    return _filled(keys, at, wanted, gaps(at, wanted, period), make)


def _filled(
    keys: Volumes,
    at: Sequence[float],
    wanted: Sequence[float],
    between: list[Gap],
    make: Callable[[Gap], Volumes],
) -> Volumes:
    places = {time: i for i, time in enumerate(at)}
    made = np.empty((len(wanted), *keys.shape[1:]), np.float32)
    for i, time in enumerate(wanted):
        if time in places:
            made[i] = keys[places[time]]
    for gap in between:
        made[gap.wanted] = make(gap)
    return made
