"""Denser cines and whole beats: frames between any two neighbouring frames of a cycle."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from mstg_jax.config import DataConfig, SettingsError
from mstg_jax.data.geometry import Geometry
from mstg_jax.data.patient import Patient
from mstg_jax.data.pipeline import geometry_of
from mstg_jax.methods import Method
from mstg_jax.methods.base import USUAL_SHARE, Model
from mstg_jax.methods.cycle import fill, linear

FRAMES = 30
"""Of a beat, where nothing says how many."""


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
    are wanted come out as they are. Times in steps, as in methods/cycle.py.

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
