"""Does a model make new frames, or repeat those it was trained on? The nearest training frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32

from mstg_jax.evaluation.scoring.protocol import Truth

REPEATED = 0.95
"""Correlation from which a frame counts as the repetition of one."""


class Match(NamedTuple):
    """The training frame most like a frame: position `frame` of `patient`, 0 at ED."""

    correlation: float
    patient: str
    frame: int


Matches: TypeAlias = dict[str, list[Match]]
"""Those of a patient's frames strictly between ED and ES, by the patient's id."""


@dataclass(frozen=True)
class Likeness:
    """Correlations with the nearest training frames, over all frames of all patients.

    `share` is that at or above a threshold. Without frames the numbers are nan.
    """

    mean: float
    max: float
    share: float
    frames: int
    closest: str | None
    """The pair of the largest, in words."""


def nearest(
    frames: Float32[np.ndarray, "t d h w"],
    fov: Bool[np.ndarray, "d h w"],
    training: "Sequence[Truth | Stack]",
) -> list[Match]:
    """For each frame the training frame of highest Pearson correlation over the voxels of `fov`.

    All frames of all training patients are candidates, on the same grid as `frames`; outside their
    own field of view they are zero, as training sees them. A constant frame correlates with none
    (0). Raises ValueError without training patients.
    """
    if not training:
        raise ValueError("nearest: no training patients; it needs at least one to compare with")
    wanted = _standardised(frames[:, fov])
    found = [Match(-np.inf, "", -1)] * len(frames)
    for example in training:
        correlations = wanted @ _standardised(example.frames[:, fov]).T
        for i, row in enumerate(correlations):
            if row.max() > found[i].correlation:
                found[i] = Match(float(row.max()), example.id, int(row.argmax()))
    return found


class Stack(NamedTuple):
    """Slices in a row of a patient's frames."""

    id: str
    frames: Float32[np.ndarray, "t d h w"]


def stacks(training: Sequence[Truth], slices: int) -> list[Stack]:
    """All stacks of so many slices of all patients, with slices of zeros after them where a patient
    has fewer: what `nearest` compares with, where patients are on grids of their own depth."""
    found = []
    for example in training:
        spare = example.frames.shape[1] - slices
        missing = [(0, 0), (0, max(0, -spare)), (0, 0), (0, 0)]
        for start in range(max(0, spare) + 1):
            frames = np.asarray(example.frames[:, start : start + slices])
            found.append(Stack(example.id, np.pad(frames, missing)))
    return found


def summarise(matches: Matches, threshold: float) -> Likeness:
    """Of all patients; `threshold` is that of `share`."""
    every = [(match, patient) for patient, own in matches.items() for match in own]
    if not every:
        return Likeness(math.nan, math.nan, math.nan, 0, None)
    values = np.array([match.correlation for match, _ in every])
    best, patient = every[int(values.argmax())]
    return Likeness(
        mean=float(values.mean()),
        max=float(values.max()),
        share=float(np.mean(values >= threshold)),
        frames=len(values),
        closest=f"{patient} to {best.patient}, frame {best.frame}",
    )


def _standardised(rows: Float32[np.ndarray, "n v"]) -> Float32[np.ndarray, "n v"]:
    """Rows of mean 0 and norm 1; constant rows become 0."""
    centred = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 1e-6)
