"""What pictures show of a patient: a slice through the heart, cut to the field of view."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from mstg_jax.data.labels import LEFT
from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.scoring.metrics import bounding_box


@dataclass(frozen=True)
class View:
    """What is shown of a patient: slice z, cut to the field of view; spacing (d, h, w) in mm."""

    z: int
    slices: tuple[int, int]
    """First and last slice of the left ventricle, else of the field of view."""
    rows: slice
    columns: slice
    spacing: tuple[float, float, float]

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.spacing[1] / self.spacing[2]

    def cut(
        self, frames: Float32[np.ndarray, "t d h w"], z: int | None = None
    ) -> Float32[np.ndarray, "t rows columns"]:
        """The cropped slice of every frame; `z` shows another slice."""
        return frames[:, self.z if z is None else z, self.rows, self.columns]


def heart_view(
    fov: Bool[np.ndarray, "d h w"],
    labels: UInt8[np.ndarray, "d h w"] | None,
    spacing: tuple[float, float, float],
) -> View:
    """The slice with the largest left ventricle, else the middle one of the field of view."""
    slices, rows, columns = bounding_box(fov)
    ventricle = np.zeros_like(fov) if labels is None else labels == LEFT
    if not ventricle.any():
        first, last = slices.start, slices.stop - 1
        return View((first + last) // 2, (first, last), rows, columns, spacing)
    area = np.count_nonzero(ventricle, axis=(1, 2))
    held = np.flatnonzero(area)
    return View(int(area.argmax()), (int(held[0]), int(held[-1])), rows, columns, spacing)


def view_of(example: Example) -> View:
    """The view of a patient on the model's grid."""
    return heart_view(example.fov, example.labels.get(0), example.geometry.spacing)
