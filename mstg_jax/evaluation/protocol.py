"""The `resampled` protocol: what a generated sequence is scored on, and how scores are tabled.

The frames of a patient lie on the model's grid (by default 1.5 x 1.5 x 3.15 mm, as in DDM), all
normalised with ED's own range. Every metric is also taken inside the field of view, because
zero padding flatters PSNR by several dB.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage

from mstg_jax.evaluation import metrics

PROTOCOL = "resampled"
STRUCTURES = {"rv": 1, "myo": 2, "lv": 3}
MISSING = "–"


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
) -> dict[str, Any]:
    """Scores of one patient, ready for JSON (None for what is undefined).

    `between` averages the frames strictly between ED and ES, or, where there are none, takes the
    last frame; `scored` says which (`between` or `last`). `flow` (voxels, warp x + flow(x)) adds
    `folding`, the mean over the frames after ED inside the field of view. `warped_labels`, with
    the truth's labels of ED and ES, add `dice` at ES, `ejection_fraction` of the left ventricle
    and its volume curve (`lv_volume` of each frame, as a share of the true one at ED).

    Raises ValueError unless there is exactly one frame at each of example.gammas.
    """
    _check(example, frames=frames, flow=flow, warped_labels=warped_labels)
    per_frame = [
        {"gamma": round(float(gamma), 6), **_quality(generated, truth, example.fov)}
        for gamma, generated, truth in zip(example.gammas, frames, example.frames, strict=True)
    ]
    between = per_frame[1:-1]
    result: dict[str, Any] = {
        "id": example.id,
        "protocol": PROTOCOL,
        "scored": "between" if between else "last",
        "between": _mean([_without(frame, "gamma") for frame in between or per_frame[-1:]]),
        "per_frame": per_frame,
    }
    if flow is not None:
        shares = [metrics.folding(f, example.fov) for f in flow]
        for frame, share in zip(per_frame, shares, strict=True):
            frame["folding"] = share
        result["folding"] = float(np.mean(shares[1:]))
    last = len(frames) - 1
    if warped_labels is not None and {0, last} <= example.labels.keys():
        ed, es = example.labels[0], example.labels[last]
        overlap = {k: metrics.dice(warped_labels[-1], es, v) for k, v in STRUCTURES.items()}
        result["dice"] = {**overlap, "mean": _mean(list(overlap.values()))}
        fractions = {
            "truth": metrics.ejection_fraction(ed, es),
            "generated": metrics.ejection_fraction(ed, warped_labels[-1]),
        }
        error = abs(fractions["generated"] - fractions["truth"])
        result["ejection_fraction"] = {**fractions, "error": error}
        full = int(metrics.voxel_volumes(ed[None])[0])
        for frame, volume in zip(per_frame, metrics.voxel_volumes(warped_labels), strict=True):
            frame["lv_volume"] = float(volume) / full if full else math.nan
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

    `patients` counts them, `last_frame_only` those without a frame between ED and ES.
    """
    protocols = sorted({s["protocol"] for s in scores})
    if len(protocols) != 1:
        raise ValueError(f"average: protocols {protocols}; needs scores of one and the same")
    numbers = [_without(s, "id", "protocol", "scored", "per_frame") for s in scores]
    return {
        "protocol": protocols[0],
        "patients": len(scores),
        "last_frame_only": sum(s["scored"] == "last" for s in scores),
        **_finite(_mean(numbers)),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown table of averaged scores, one row for each method, the protocol named above it."""
    columns = (
        ("PSNR (dB) ↑", ("between", "psnr_fov"), "{:.2f}"),
        ("SSIM ↑", ("between", "ssim_fov"), "{:.3f}"),
        ("NMSE ↓", ("between", "nmse_fov"), "{:.4f}"),
        ("Dice at ES ↑", ("dice", "mean"), "{:.3f}"),
        ("Folding ↓", ("folding",), "{:.3%}"),
    )
    lines = [
        ["Method", "Patients", *(title for title, _, _ in columns)],
        ["---"] + ["---:"] * (1 + len(columns)),
    ]
    for name, row in rows.items():
        found = [(_lookup(row, path), form) for _, path, form in columns]
        cells = [MISSING if value is None else form.format(value) for value, form in found]
        lines.append([name, str(row["patients"]), *cells])
    return _caption(rows) + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _caption(rows: dict[str, dict[str, Any]]) -> str:
    protocols = ", ".join(sorted({row["protocol"] for row in rows.values()}))
    last = max((row["last_frame_only"] for row in rows.values()), default=0)
    exception = f" (the last frame for {last} patients without any)" if last else ""
    return (
        f"Protocol: {protocols}. PSNR, SSIM and NMSE inside the field of view, mean of the frames "
        f"strictly between ED and ES{exception}; Dice is the mean of RV, myocardium and LV."
    )


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


def _lookup(row: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    return row
