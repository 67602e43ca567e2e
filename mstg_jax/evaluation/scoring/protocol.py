"""What a generated sequence is scored on, and the `resampled` protocol.

There the frames of a patient lie on the model's grid (by default 1.5 x 1.5 x 3.15 mm, as in DDM),
all normalised with ED's own range. Every metric is also taken inside the field of view, because
zero padding flatters PSNR by several dB.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage

from mstg_jax.evaluation.scoring import metrics
from mstg_jax.evaluation.scoring.scores import (
    Dice,
    EjectionFraction,
    Frame,
    Quality,
    Roughness,
    Score,
    mean,
    mean_of,
)
from mstg_jax.methods.base import FrameSequence

RESAMPLED = "resampled"
STRUCTURES = (1, 2, 3)
"""Labels of the right ventricle, the myocardium and the left ventricle."""


@runtime_checkable
class Truth(Protocol):
    """What is scored against; mstg_jax.data.pipeline.Example is one."""

    @property
    def id(self) -> str: ...
    @property
    def frames(self) -> Float32[np.ndarray, "t d h w"]: ...
    @property
    def gammas(self) -> Float32[np.ndarray, " t"]: ...
    @property
    def labels(self) -> dict[int, UInt8[np.ndarray, "d h w"]]: ...
    @property
    def fov(self) -> Bool[np.ndarray, "d h w"]: ...


@dataclass(frozen=True, eq=False)
class Reference:
    """A patient's frames from ED to ES on the grid of a protocol; a Truth."""

    id: str
    frames: Float32[np.ndarray, "t d h w"]
    gammas: Float32[np.ndarray, " t"]
    labels: dict[int, UInt8[np.ndarray, "d h w"]]
    fov: Bool[np.ndarray, "d h w"]


def score(
    example: Truth,
    frames: Float32[np.ndarray, "t d h w"],
    flow: Float32[np.ndarray, "t d h w 3"] | None = None,
    warped_labels: UInt8[np.ndarray, "t d h w"] | None = None,
    protocol: str = RESAMPLED,
) -> Score:
    """Scores of one patient; without frames between ED and ES `between` is nan.

    `flow` (voxels, warp x + flow(x)) adds `folding`; `warped_labels`, with the truth's labels of ED
    and ES, add `dice`, `ejection_fraction`, `lv_volume_error` and the volumes of the frames.

    Raises ValueError unless there is exactly one frame at each of example.gammas.
    """
    _check(example, frames=frames, flow=flow, warped_labels=warped_labels)
    qualities = [_quality(x, y, example.fov) for x, y in zip(frames, example.frames, strict=True)]
    found = Score(
        id=example.id,
        protocol=protocol,
        between=mean_of(Quality, qualities[1:-1]),
        roughness=_roughness(frames, example),
        per_frame=tuple(
            Frame(round(float(gamma), 6), mean_of(Quality, [quality]))  # nan for infinite
            for gamma, quality in zip(example.gammas, qualities, strict=True)
        ),
    )
    if flow is not None:
        shares = [metrics.folding(f, example.fov) for f in flow]
        pairs = zip(found.per_frame, shares, strict=True)
        per_frame = tuple(replace(frame, folding=share) for frame, share in pairs)
        found = replace(found, per_frame=per_frame, folding=float(np.mean(shares[1:])))
    if warped_labels is not None and {0, len(frames) - 1} <= example.labels.keys():
        return _with_anatomy(found, example, warped_labels)
    return found


def score_sequence(truth: Truth, made: FrameSequence, protocol: str = RESAMPLED) -> Score:
    """Scores of a sequence at the truth's own frames, on its grid; see `score`."""
    warped = None
    if 0 in truth.labels and made.flow is not None:
        warped = warp_labels(truth.labels[0], made.flow)
    return score(truth, made.frames, made.flow, warped, protocol)


def warp_labels(
    labels: UInt8[np.ndarray, "d h w"], flow: Float32[np.ndarray, "t d h w 3"]
) -> UInt8[np.ndarray, "t d h w"]:
    """ED's labels at x + flow(x), nearest neighbour; beyond the border they repeat its voxels.

    Background there would eat the border slices of a ventricle that reaches them: the smallest
    motion outward would count as lost volume.
    """
    grid = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"))
    return np.stack(
        [
            ndimage.map_coordinates(labels, grid + np.moveaxis(f, -1, 0), order=0, mode="nearest")
            for f in flow
        ]
    )


def _quality(
    generated: Float32[np.ndarray, "d h w"],
    truth: Float32[np.ndarray, "d h w"],
    fov: Bool[np.ndarray, "d h w"],
) -> Quality:
    """As it is measured: also infinite."""
    measured = (metrics.psnr, metrics.ssim, metrics.nmse)
    return Quality(*(f(generated, truth, mask) for mask in (None, fov) for f in measured))


def _roughness(frames: Float32[np.ndarray, "t d h w"], example: Truth) -> Roughness:
    made, truth = (metrics.roughness(x, example.fov) for x in (frames, example.frames))
    ratio = made / truth if truth > 0 else math.nan
    return mean_of(Roughness, [Roughness(made, truth, ratio)])


def _with_anatomy(found: Score, example: Truth, warped: UInt8[np.ndarray, "t d h w"]) -> Score:
    """With overlap, ejection fraction and volumes."""
    ed, es = example.labels[0], example.labels[len(warped) - 1]
    rv, myo, lv = (metrics.dice(warped[-1], es, label) for label in STRUCTURES)
    truth, made = (metrics.ejection_fraction(ed, labels) for labels in (es, warped[-1]))
    full = int(metrics.voxel_volumes(ed[None])[0])
    frames, errors = [], []
    for i, volume in enumerate(metrics.voxel_volumes(warped)):
        share, true = float(volume) / full if full else math.nan, None
        if full and i in example.labels:
            true = int(metrics.voxel_volumes(example.labels[i][None])[0]) / full
            errors.append(abs(share - true))
        frames.append(replace(found.per_frame[i], lv_volume=share, lv_volume_truth=true))
    return replace(
        found,
        per_frame=tuple(frames),
        dice=Dice(rv, myo, lv, mean([rv, myo, lv])),
        ejection_fraction=EjectionFraction(truth, made, abs(made - truth)),
        lv_volume_error=float(np.mean(errors[1:])) if errors else math.nan,
    )


def _check(example: Truth, **arrays: np.ndarray | None) -> None:
    shape = example.frames.shape
    for name, array in arrays.items():
        if array is not None and array.shape[:4] != shape:
            raise ValueError(
                f"{example.id}: {name} has shape (t d h w) {array.shape[:4]} but the truth has "
                f"{shape}; scores need one frame at each of its {shape[0]} gammas, on its grid"
            )
