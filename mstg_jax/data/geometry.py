"""From a patient's native grid to the model's grid, and back.

Both grids have the same axes, so every mapping is one small matrix per axis: the same numbers as
`scipy.ndimage.affine_transform` with a diagonal matrix, measured 30 times faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8

from mstg_jax.data.intensity import limits
from mstg_jax.data.nifti import DataError
from mstg_jax.data.patient import Patient

Triple = tuple[float, float, float]
Size = tuple[int, int, int]

LEAST_SQUARES_BELOW = 0.75
"""Largest scale (native voxels per model voxel) at which the inverse is a least squares solution.

Typical of depth, 10 mm slices on 3.15 mm. Mean over 42 ACDC patients, forward then inverse: 35.5 dB
against 33.2 dB with interpolation alone, and 32.9 against 31.0 dB with white noise of 0.03 added in
between. In plane as well, at scales near 1, it would amplify that noise: about 28 dB.
"""
SMALLEST_SINGULAR = 0.2
"""Share of the largest singular value below which the least squares keep the interpolation: over
300 random crops white noise grows at most 1.6 times in any slice, against 4.6 times without."""


@dataclass(frozen=True)
class Geometry:
    """Both grids of one patient; every tuple is (d, h, w), spacings in mm.

    Model voxel m lies at native coordinate `centre + (m - (size - 1) / 2) * scale`, where native
    voxel n spans n - 0.5 to n + 0.5. The native intensities `low` and `high` become 0 and 1.

    There is no filter against aliasing on the way to a coarser grid: at 1.5, 2 and 3 mm in plane no
    Gaussian lowered the error of forward then inverse on 53 ACDC patients; at 3 mm the usual
    sigma of (scale - 1) / 2 raised it from 0.033 to 0.035 of the range.
    """

    native_shape: Size
    native_spacing: Triple
    centre: Triple
    spacing: Triple
    size: Size
    low: float
    high: float

    @classmethod
    def fit(
        cls,
        patient: Patient,
        spacing: Triple,
        size: Size,
        crop: Literal["centre", "heart"],
        percentiles: tuple[float, float] = (0.0, 100.0),
        depth: Literal["resampled", "native"] = "resampled",
    ) -> "Geometry":
        """Geometry of a patient on a grid of `size` voxels of `spacing` mm.

        With `depth` native its slices are the patient's own, all of them. `percentiles` of ED's
        intensities become 0 and 1. Raises DataError if no voxel of the model's grid falls inside
        the image, or both percentiles are one value.
        """
        ed = patient.frames[patient.ed]
        d, h, w = ed.shape
        low, high = limits(ed, percentiles)
        if not low < high:
            raise DataError(
                f"{patient.id}: ED's percentiles {percentiles} are {low:g} and {high:g}; its range "
                "must not be empty"
            )
        image_centre = ((d - 1) / 2, (h - 1) / 2, (w - 1) / 2)
        centre = heart_centre(patient) if crop == "heart" else image_centre
        if depth == "native":
            centre = (image_centre[0], centre[1], centre[2])
            spacing, size = (patient.spacing[0], spacing[1], spacing[2]), (d, size[1], size[2])
        geometry = cls(
            native_shape=(d, h, w),
            native_spacing=patient.spacing,
            centre=centre,
            spacing=spacing,
            size=size,
            low=low,
            high=high,
        )
        if not geometry.fov().any():
            raise DataError(
                f"{patient.id}: no voxel of the model's grid, {size} of {spacing} mm, falls inside "
                f"the image, {ed.shape} of {patient.spacing} mm; the spacing must be smaller"
            )
        return geometry

    @property
    def scale(self) -> Float[np.ndarray, "3"]:
        """Native voxels per model voxel."""
        return np.array(self.spacing) / np.array(self.native_spacing)

    def forward(self, volumes: Float32[np.ndarray, "*t d h w"]) -> Float32[np.ndarray, "*t D H W"]:
        """Native intensities to the model's grid, `low` and `high` to 0 and 1, not clipped.

        Trilinear; the outer half of the border voxels repeats them, beyond it is exactly 0.
        """
        out = _apply(volumes, [_linear(x, n) for x, n in self._native_coordinates()])
        # In place: a sequence is 25 MB, and temporaries of that size cost more than the arithmetic.
        out -= self.low
        out /= self.high - self.low
        out *= self.fov()
        return out

    def forward_labels(
        self, labels: UInt8[np.ndarray, "*t d h w"]
    ) -> UInt8[np.ndarray, "*t D H W"]:
        """Labels to the model's grid, nearest neighbour, 0 outside the field of view."""
        return _pick(labels, self._native_coordinates()) * self.fov()

    def along_depth(
        self, volumes: Float32[np.ndarray, "*t d H W"], *, beyond: bool = False
    ) -> Float32[np.ndarray, "*t D H W"]:
        """`forward` along depth alone, of volumes that are on this grid in plane already; with
        `beyond` the outer slices are repeated where there are none."""
        (x, n), *_ = self._native_coordinates()
        along = _linear(x, n) * (_within(x, n)[:, None] | beyond)
        *lead, _, height, width = volumes.shape
        out = along @ volumes.reshape(*lead, n, height * width)
        return out.reshape(*lead, len(along), height, width)

    def labels_along_depth(
        self, labels: Shaped[np.ndarray, "*t d H W"]
    ) -> Shaped[np.ndarray, "*t D H W"]:
        """`forward_labels` along depth alone."""
        (x, n), *_ = self._native_coordinates()
        nearest = np.clip(np.floor(x + 0.5), 0, n - 1).astype(int)
        return labels[..., nearest, :, :] * _within(x, n)[:, None, None]

    def fov(self) -> Bool[np.ndarray, "D H W"]:
        """Model voxels inside the image, which reaches from -0.5 to n - 0.5."""
        return _box(*(_within(x, n) for x, n in self._native_coordinates()))

    def inverse(
        self,
        frames: Float32[np.ndarray, "t D H W"],
        ends: Float32[np.ndarray, "2 d h w"],
        gammas: Float32[np.ndarray, " t"],
    ) -> Float32[np.ndarray, "t d h w"]:
        """Frames between two native images, at gammas from 0 to 1, back to native intensities.

        They change what a blend of the ends, linear in time, shows: what the model's grid does not
        hold, between its voxels and beyond its crop, is blended. Inside the field of view of 10
        ACDC patients that is 0.6 dB nearer to the true frames than frames of the grid's detail.
        """
        share = gammas[:, None, None, None]
        first, last = self.forward(ends)
        change = self.inverse_change(frames - ((1 - share) * first + share * last))
        return (1 - share) * ends[0] + share * ends[1] + change

    def inverse_change(
        self, change: Float32[np.ndarray, "*t D H W"]
    ) -> Float32[np.ndarray, "*t d h w"]:
        """Differences of intensities back to the native grid, 0 beyond the model's crop; padding
        has no influence."""
        native = _apply(change, self._inverse_matrices(LEAST_SQUARES_BELOW)) * self.covered()
        native *= self.high - self.low
        return native

    def inverse_labels(
        self, labels: UInt8[np.ndarray, "*t D H W"]
    ) -> UInt8[np.ndarray, "*t d h w"]:
        """Labels back to the native grid, nearest neighbour, 0 beyond the model's crop."""
        return _pick(labels, self._model_coordinates()) * self.covered()

    def inverse_flow(
        self, flow: Float32[np.ndarray, "*t D H W 3"]
    ) -> Float32[np.ndarray, "*t d h w 3"]:
        """Displacements in model voxels to native voxels on the native grid, 0 beyond the crop."""
        # Interpolated everywhere: a displacement need not level off at the border like `forward`.
        native = _apply(np.moveaxis(flow, -1, 0), self._inverse_matrices(0.0)) * self.covered()
        return np.moveaxis(native, 0, -1) * self.scale.astype(np.float32)

    def covered(self) -> Bool[np.ndarray, "d h w"]:
        """Native voxels inside the model's crop, half a voxel of border included."""
        return _box(*(_within(x, n) for x, n in self._model_coordinates()))

    def _native_coordinates(self) -> list[tuple[np.ndarray, int]]:
        """Per axis: native coordinate of every model voxel, and the number of native voxels."""
        axes = zip(self.centre, self.scale, self.size, self.native_shape, strict=True)
        return [(c + (np.arange(m) - (m - 1) / 2) * s, n) for c, s, m, n in axes]

    def _model_coordinates(self) -> list[tuple[np.ndarray, int]]:
        """Per axis: model coordinate of every native voxel, and the number of model voxels."""
        axes = zip(self.centre, self.scale, self.size, self.native_shape, strict=True)
        return [((np.arange(n) - c) / s + (m - 1) / 2, m) for c, s, m, n in axes]

    def _inverse_matrices(self, least_squares_below: float) -> list[np.ndarray]:
        """Per axis: float32 (native voxels, model voxels); model voxels out of view weigh 0."""
        matrices = []
        axes = zip(self._native_coordinates(), self._model_coordinates(), self.scale, strict=True)
        for (to_native, n), (to_model, m), scale in axes:
            fov = _within(to_native, n)
            weights = _linear(to_model, m) * fov
            matrix = weights / np.maximum(weights.sum(1, keepdims=True), 1e-6)
            if scale < least_squares_below:
                forward = _linear(to_native, n) * fov[:, None]
                residual = np.diag(fov) - forward @ matrix
                matrix = matrix + np.linalg.pinv(forward, SMALLEST_SINGULAR) @ residual
            matrices.append(matrix.astype(np.float32))
        return matrices


def _linear(x: Float[np.ndarray, " m"], count: int) -> Float32[np.ndarray, "m n"]:
    """Weights that interpolate `count` samples at coordinates x, clamped to the first and last."""
    x = np.clip(x, 0, count - 1)
    low = np.floor(x).astype(int)
    weights = np.zeros((len(x), count), np.float32)
    rows = np.arange(len(x))
    weights[rows, low] = 1 - (x - low)
    weights[rows, np.minimum(low + 1, count - 1)] += x - low
    return weights


def _within(x: Float[np.ndarray, " m"], count: int) -> Bool[np.ndarray, " m"]:
    # The tolerance treats both ends alike where a border lies exactly on the limit.
    return (x > -0.5 - 1e-6) & (x < count - 0.5 + 1e-6)


def _apply(volumes: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """One matrix (out, in) along each of the last three axes."""
    along_d, along_h, along_w = matrices
    planes = along_h @ volumes @ along_w.T
    *lead, depth, height, width = planes.shape
    out = along_d @ planes.reshape(*lead, depth, height * width)
    return out.reshape(*lead, len(along_d), height, width)


def _pick(volumes: np.ndarray, coordinates: list[tuple[np.ndarray, int]]) -> np.ndarray:
    nearest = [np.clip(np.floor(x + 0.5), 0, count - 1).astype(int) for x, count in coordinates]
    return volumes[(..., *np.ix_(*nearest))]


def _box(
    in_d: Bool[np.ndarray, " d"], in_h: Bool[np.ndarray, " h"], in_w: Bool[np.ndarray, " w"]
) -> Bool[np.ndarray, "d h w"]:
    return in_d[:, None, None] & in_h[:, None] & in_w


def heart_centre(patient: Patient) -> Triple:
    """Centroid of the ED labels, else of the variance over the cycle, in native voxels (d, h, w).

    On 53 ACDC patients the variance comes within 12 mm of the labels in plane on average, the
    centre of the image within 24 mm.
    """
    labels = patient.labels.get(patient.ed)
    weight = patient.frames.var(0) if labels is None or not labels.any() else labels > 0
    if not weight.any():  # nothing is labelled and nothing moves
        weight = np.ones_like(weight)
    places = np.indices(weight.shape, dtype=np.float64)
    d, h, w = (places * weight).sum((1, 2, 3)) / weight.sum(dtype=np.float64)
    return float(d), float(h), float(w)
