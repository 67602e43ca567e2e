"""Scores of a patient, and their means over patients.

nan stands for what is undefined, None for what a method or a patient does not have. Volumes and
fractions are shares of 1.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeGuard, TypeVar

import numpy as np


@dataclass(frozen=True)
class Quality:
    """Image quality over the whole volume and, with `_fov`, inside the field of view."""

    psnr: float
    """In dB."""
    ssim: float
    nmse: float
    psnr_fov: float
    ssim_fov: float
    nmse_fov: float


@dataclass(frozen=True)
class Roughness:
    """metrics.roughness of the generated frames and of the truth's.

    Their ratio is below 1 where frames are smoother than a real heart, 0 for a blend.
    """

    generated: float
    truth: float
    ratio: float


@dataclass(frozen=True)
class Dice:
    """Overlap at ES of ED's warped labels with the truth's, and the mean over the structures."""

    rv: float
    myo: float
    lv: float
    mean: float


@dataclass(frozen=True)
class EjectionFraction:
    """Of the left ventricle; `error` is the absolute difference."""

    truth: float
    generated: float
    error: float


@dataclass(frozen=True)
class Frame:
    """A frame's scores; volumes are those of the left ventricle, as a share of the true one at ED.

    `lv_volume_truth` is that of labelled frames.
    """

    gamma: float
    quality: Quality
    folding: float | None = None
    lv_volume: float | None = None
    lv_volume_truth: float | None = None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What is measured of a patient's sequence, or its mean over patients."""

    between: Quality
    """Mean of the frames strictly between ED and ES: ES itself is given to every method."""
    roughness: Roughness
    folding: float | None = None
    """Mean share of folded voxels over the frames after ED, inside the field of view."""
    dice: Dice | None = None
    ejection_fraction: EjectionFraction | None = None
    lv_volume_error: float | None = None
    """Mean absolute difference of `lv_volume` over the labelled frames after ED."""
    seconds: float | None = None
    """Of a sequence on this machine, compilation excluded."""


@dataclass(frozen=True, kw_only=True)
class Score(Numbers):
    """A patient's scores under a protocol, with those of each frame from ED to ES."""

    id: str
    protocol: str
    per_frame: tuple[Frame, ...]


@dataclass(frozen=True, kw_only=True)
class Average(Numbers):
    """Means over patients, of what is defined; `none_between` as the function of that name."""

    protocol: str
    patients: int
    none_between: int


T = TypeVar("T")
Group = TypeVar("Group", Quality, Roughness, Dice, EjectionFraction)


def average(scores: Sequence[Score]) -> Average:
    """Mean over patients of every number, leaving out what is undefined for a patient.

    Raises ValueError unless all are scores under one protocol.
    """
    protocols = sorted({s.protocol for s in scores})
    if len(protocols) != 1:
        raise ValueError(f"average: protocols {protocols}; needs scores of one and the same")
    return Average(
        protocol=protocols[0],
        patients=len(scores),
        none_between=none_between(scores),
        between=mean_of(Quality, [s.between for s in scores]),
        roughness=mean_of(Roughness, [s.roughness for s in scores]),
        folding=_if_any(mean, (s.folding for s in scores)),
        dice=_if_any(partial(mean_of, Dice), (s.dice for s in scores)),
        ejection_fraction=_if_any(
            partial(mean_of, EjectionFraction), (s.ejection_fraction for s in scores)
        ),
        lv_volume_error=_if_any(mean, (s.lv_volume_error for s in scores)),
        seconds=_if_any(mean, (s.seconds for s in scores)),
    )


def none_between(scores: Sequence[Score]) -> int:
    """How many patients have no frame strictly between ED and ES."""
    return sum(len(s.per_frame) < 3 for s in scores)


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is such a number, and it is defined."""
    return value is not None and math.isfinite(value)


def mean(values: Sequence[float]) -> float:
    """Mean without nan; nan where nothing is left or the mean is not finite."""
    left = [value for value in values if not math.isnan(value)]
    found = float(np.mean(left)) if left else math.nan
    return found if known(found) else math.nan


def mean_of(kind: type[Group], items: Sequence[Group]) -> Group:
    """Mean of every field; nan without items."""
    names = [field.name for field in fields(kind)]
    return kind(**{name: mean([getattr(item, name) for item in items]) for name in names})


def _if_any(combine: Callable[[list[T]], T], items: Iterable[T | None]) -> T | None:
    """None where no item is there."""
    there = [item for item in items if item is not None]
    return combine(there) if there else None
