"""What a generated sequence is scored on, and the `resampled` protocol.

There the frames of a patient lie on the model's grid (by default 1.5 x 1.5 x 3.15 mm, as in DDM),
all normalised with ED's own range. Every metric is also taken inside the field of view, because
zero padding flatters PSNR by several dB.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage

from mstg_jax.evaluation import metrics

RESAMPLED = "resampled"
STRUCTURES = {"rv": 1, "myo": 2, "lv": 3}


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


def score(
    example: Truth,
    frames: Float32[np.ndarray, "t d h w"],
    flow: Float32[np.ndarray, "t d h w 3"] | None = None,
    warped_labels: UInt8[np.ndarray, "t d h w"] | None = None,
    protocol: str = RESAMPLED,
) -> dict[str, Any]:
    """Scores of one patient, ready for JSON (None for what is undefined).

    `between` averages the frames strictly between ED and ES; None of all where there are none,
    because ES itself is given to every method. `flow` (voxels, warp x + flow(x)) adds
    `folding`, the mean over the frames after ED inside the field of view. `roughness` is that of
    the generated frames, the truth's, and their ratio: below 1 is smoother than a real heart, 0 a
    blend. `warped_labels`, with the truth's labels of ED and ES, add `dice` at ES,
    `ejection_fraction` of the left ventricle and its volume curve: `lv_volume` of each frame,
    `lv_volume_truth` where it is labelled, both as a share of the true one at ED, and
    `lv_volume_error`, the mean absolute difference over the labelled frames after ED.

    Raises ValueError unless there is exactly one frame at each of example.gammas.
    """
    _check(example, frames=frames, flow=flow, warped_labels=warped_labels)
    per_frame = [
        {"gamma": round(float(gamma), 6), **_quality(generated, truth, example.fov)}
        for gamma, generated, truth in zip(example.gammas, frames, example.frames, strict=True)
    ]
    qualities = [name for name in per_frame[0] if name != "gamma"]
    result: dict[str, Any] = {
        "id": example.id,
        "protocol": protocol,
        "between": {name: _mean([f[name] for f in per_frame[1:-1]]) for name in qualities},
        "roughness": _roughness(frames, example),
        "per_frame": per_frame,
    }
    if flow is not None:
        shares = [metrics.folding(f, example.fov) for f in flow]
        for frame, share in zip(per_frame, shares, strict=True):
            frame["folding"] = share
        result["folding"] = float(np.mean(shares[1:]))
    if warped_labels is not None and {0, len(frames) - 1} <= example.labels.keys():
        result |= _anatomy(example, warped_labels, per_frame)
    return _finite(result)


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


def average(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over patients of every number, leaving out what is undefined for a patient.

    `patients` counts them, `none_between` those without a frame between ED and ES.
    """
    protocols = sorted({s["protocol"] for s in scores})
    if len(protocols) != 1:
        raise ValueError(f"average: protocols {protocols}; needs scores of one and the same")
    numbers = [_without(s, "id", "protocol", "per_frame") for s in scores]
    return {
        "protocol": protocols[0],
        "patients": len(scores),
        "none_between": none_between(scores),
        **_finite(_mean(numbers)),
    }


def none_between(scores: Sequence[dict[str, Any]]) -> int:
    """How many patients have no frame strictly between ED and ES."""
    return sum(len(s["per_frame"]) < 3 for s in scores)


def _quality(
    generated: Float32[np.ndarray, "d h w"],
    truth: Float32[np.ndarray, "d h w"],
    fov: Bool[np.ndarray, "d h w"],
) -> dict[str, float]:
    parts = {"": None, "_fov": fov}
    return {
        f"{metric.__name__}{suffix}": metric(generated, truth, mask)
        for suffix, mask in parts.items()
        for metric in (metrics.psnr, metrics.ssim, metrics.nmse)
    }


def _roughness(frames: Float32[np.ndarray, "t d h w"], example: Truth) -> dict[str, float]:
    made, truth = (metrics.roughness(x, example.fov) for x in (frames, example.frames))
    return {"generated": made, "truth": truth, "ratio": made / truth if truth > 0 else math.nan}


def _anatomy(
    example: Truth, warped: UInt8[np.ndarray, "t d h w"], per_frame: list[dict[str, Any]]
) -> dict[str, Any]:
    """Overlap, ejection fraction and volumes; the volumes also go to their frames."""
    ed, es = example.labels[0], example.labels[len(warped) - 1]
    overlap = {k: metrics.dice(warped[-1], es, v) for k, v in STRUCTURES.items()}
    fractions = {
        "truth": metrics.ejection_fraction(ed, es),
        "generated": metrics.ejection_fraction(ed, warped[-1]),
    }
    full = int(metrics.voxel_volumes(ed[None])[0])
    errors = []
    for i, volume in enumerate(metrics.voxel_volumes(warped)):
        per_frame[i]["lv_volume"] = float(volume) / full if full else math.nan
        if full and i in example.labels:
            true = int(metrics.voxel_volumes(example.labels[i][None])[0]) / full
            per_frame[i]["lv_volume_truth"] = true
            errors.append(abs(per_frame[i]["lv_volume"] - true))
    return {
        "dice": {**overlap, "mean": _mean(list(overlap.values()))},
        "ejection_fraction": {
            **fractions,
            "error": abs(fractions["generated"] - fractions["truth"]),
        },
        "lv_volume_error": float(np.mean(errors[1:])) if errors else math.nan,
    }


def _check(example: Truth, **arrays: np.ndarray | None) -> None:
    shape = example.frames.shape
    for name, array in arrays.items():
        if array is not None and array.shape[:4] != shape:
            raise ValueError(
                f"{example.id}: {name} has shape (t d h w) {array.shape[:4]} but the truth has "
                f"{shape}; scores need one frame at each of its {shape[0]} gammas, on its grid"
            )


def _mean(items: Sequence[Any]) -> Any:
    """Mean of numbers, or of dicts key by key, without None and nan; nan where nothing is left."""
    if any(isinstance(item, dict) for item in items):
        dicts = [item for item in items if isinstance(item, dict)]
        keys = dict.fromkeys(key for item in dicts for key in item)
        return {key: _mean([item.get(key) for item in dicts]) for key in keys}
    numbers = [item for item in items if item is not None and not math.isnan(item)]
    return float(np.mean(numbers)) if numbers else math.nan


def _finite(value: Any) -> Any:
    """The same tree with None for nan, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without(item: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in keys}
