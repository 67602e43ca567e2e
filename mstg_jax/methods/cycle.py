"""Frames between any key frames of a cycle, one gap after the other."""

import math
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

    first, last: of the keys; before, after: the keys as far beyond them, None where there is none;
    wanted: positions among the wanted times; gammas: their places in the gap; span: the share of
    the cycle that the gap takes, and its steps, see methods.base.Ends.
    """

    first: int
    last: int
    before: int | None
    after: int | None
    wanted: list[int]
    gammas: Float32[np.ndarray, " t"]
    span: tuple[float, float]


def gaps(at: Sequence[float], wanted: Sequence[float], period: float | None) -> list[Gap]:
    """The gaps that wanted times lie in.

    at: times of the keys, increasing, in steps from frame to frame. period: the cycle's length,
    after whose end the first key comes again; None where it does not. Raises ValueError for a
    wanted time that no two keys enclose.
    """
    count, closed = len(at), period is not None
    times = [*at, at[0] + period] if period is not None else list(at)
    lengths = np.diff(times)
    found, seen = list[Gap](), set(at)

    def beyond(gap: int, key: int, length: float) -> int | None:
        """The key at the other end of a gap beside one of the same length."""
        inside = count > 2 if closed else 0 <= gap < count - 1
        return key % count if inside and math.isclose(lengths[gap % count], length) else None

    for first, length in enumerate(map(float, lengths)):
        start, end = times[first], times[first + 1]
        own = [i for i, time in enumerate(wanted) if start < time < end]
        if own:
            gammas = np.array([(wanted[i] - start) / length for i in own], np.float32)
            share = min(1.0, length / (period or USUAL_CYCLE))
            beside = beyond(first - 1, first - 1, length), beyond(first + 1, first + 2, length)
            span = share, max(2.0, length)
            found.append(Gap(first, (first + 1) % count, *beside, own, gammas, span))
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
        first, last = keys[gap.first], keys[gap.last]
        bend = np.zeros((2, *first.shape), np.float32)
        if gap.before is not None:
            bend[0] = keys[gap.before] - 2 * first + last
        if gap.after is not None:
            bend[1] = first - 2 * last + keys[gap.after]
        made = generate_sequence(method, model, first, last, gap.gammas, seed, gap.span, bend)
        return made.frames

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
