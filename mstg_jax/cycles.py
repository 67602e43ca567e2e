"""Denser cines and whole beats: frames between any two neighbouring frames of a cycle."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32

from mstg_jax.config import DataConfig, SettingsError
from mstg_jax.data.cycle import second_differences
from mstg_jax.data.geometry import Geometry
from mstg_jax.data.patient import Patient
from mstg_jax.data.pipeline import geometry_of
from mstg_jax.methods import Method
from mstg_jax.methods.base import USUAL_SHARE, Model, generate_sequence

FRAMES = 30
"""Of a beat, where nothing says how many."""
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
        ends = keys[gap.first], keys[gap.last]
        bend = second_differences(keys, gap.before, gap.first, gap.last, gap.after)
        return generate_sequence(method, model, *ends, gap.gammas, seed, gap.span, bend).frames

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


def frames_at(
    method: Method,
    model: Model,
    frames: Float32[np.ndarray, "k d h w"],
    geometry: Geometry,
    at: list[float],
    wanted: list[float],
    *,
    period: float | None,
    seed: int = 0,
) -> Float32[np.ndarray, "n d h w"]:
    """Native frames at the wanted times; `frames` are keys at the times `at`, of which those that
    are wanted come out as they are. Times in steps, as in `gaps`.

    The method changes what a blend of the two nearest keys, linear in time, shows: what its grid
    does not hold, between its voxels and beyond its crop, is blended.
    """
    keys = geometry.forward(frames)
    made = fill(method, model, keys, at, wanted, period=period, seed=seed)
    change = geometry.inverse_change(made - linear(keys, at, wanted, period=period))
    return linear(frames, at, wanted, period=period) + change


def denser(
    method: Method,
    model: Model,
    patient: Patient,
    config: DataConfig,
    factor: int,
    *,
    closed: bool,
    seed: int = 0,
) -> Float32[np.ndarray, "n d h w"]:
    """`factor` frames for each one of the patient's, every `factor`-th the patient's own; `closed`:
    also between its last and its first, else the last is the end."""
    count = len(patient.frames)
    total = factor * (count if closed else count - 1) + (not closed)
    at = [float(factor * i) for i in range(count)]
    period = float(factor * count) if closed else None
    wanted = [float(i) for i in range(total)]
    grid = geometry_of(patient, config)
    return frames_at(method, model, patient.frames, grid, at, wanted, period=period, seed=seed)


def beat(
    method: Method,
    model: Model,
    keys: Patient,
    config: DataConfig,
    at: list[float],
    count: int,
    *,
    closed: bool,
    seed: int = 0,
) -> Float32[np.ndarray, "n d h w"]:
    """`count` frames evenly spread, of key frames at their times among them, the first at 0;
    `closed`: the first key comes again after the last frame, else the last key is that frame."""
    period = float(count) if closed else None
    wanted = [float(i) for i in range(count)]
    grid = geometry_of(keys, config)
    return frames_at(method, model, keys.frames, grid, at, wanted, period=period, seed=seed)


def placed(
    patient: Patient, count: int | None, *, closed: bool
) -> tuple[Patient, list[float], int, float]:
    """A patient's key frames, their times in what is generated, the number of its frames, and its
    time step in those of the patient.

    Of a whole cine the keys are ED and ES at their own times. Of files, two and closed, they are
    ED and ES at their usual times, else evenly spread.
    """
    known, total = len(patient.frames), len(patient.frames)
    whole = (patient.ed, patient.es) != (0, known - 1)
    count = count or (total if whole else FRAMES)
    least = 2 if whole else known
    if count < least + closed:
        raise SettingsError(
            f"--frames is {count}, but {least} key frames and what lies between them are more"
        )
    if whole:
        steps = len(patient.sequence) - 1
        keys = replace(patient, frames=patient.frames[[patient.ed, patient.es]], ed=0, es=1)
        place = min(count - 1, max(1, round(steps / total * count)))
        return keys, [0.0, float(place)], count, total / count
    if closed:
        share = USUAL_SHARE if known == 2 else 1 / known
        at = [min(count - known + i, max(i, round(i * share * count))) for i in range(known)]
    else:
        at = [round(i * (count - 1) / (known - 1)) for i in range(known)]
    return patient, [float(i) for i in at], count, 1 / at[-1]
