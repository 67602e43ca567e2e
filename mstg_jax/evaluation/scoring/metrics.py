"""Image quality, overlap, folding, volume and smoothness of generated frames, on the host.

Intensities have a range of 1; whose range that is, the protocol says. `mask` is the field of view.
LPIPS is left out: its weights are not to be had offline without PyTorch.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from skimage.metrics import structural_similarity

MSE_FLOOR = 1e-10
SSIM_RADIUS = 5
"""Of the 11-voxel window: sigma 1.5 truncated at 3.5 sigma, as in scikit-image."""


def nmse(
    x: Float[np.ndarray, "*shape"],
    y: Float[np.ndarray, "*shape"],
    mask: Bool[np.ndarray, "*shape"] | None = None,
) -> float:
    """mean((x - y)^2) / mean(y^2), y the truth; nan where the truth is zero everywhere."""
    energy = _mean_square(y, mask)
    return _mean_square(x - y, mask) / energy if energy > 0 else float("nan")


def psnr(
    x: Float[np.ndarray, "*shape"],
    y: Float[np.ndarray, "*shape"],
    mask: Bool[np.ndarray, "*shape"] | None = None,
) -> float:
    """-10 log10 MSE in dB, for a data range of 1.

    The MSE is floored at 1e-10, so that identical volumes score 100 dB and means stay finite.
    """
    return float(-10 * np.log10(max(_mean_square(x - y, mask), MSE_FLOOR)))


def ssim(
    x: Float[np.ndarray, "d h w"],
    y: Float[np.ndarray, "d h w"],
    mask: Bool[np.ndarray, "d h w"] | None = None,
) -> float:
    """3D SSIM (Wang et al. 2004): Gaussian window of sigma 1.5 (11^3 voxels), data range 1.

    The whole map is averaged, borders included, inside the mask. Windows mirror the volume at its
    borders, as scikit-image does; an axis shorter than the window is mirrored beforehand, which
    gives the same map, so the number stays a 3D SSIM however few the slices. With a mask the
    volumes are cut to its bounding box first: of a box-shaped field of view nothing outside counts.
    """
    if mask is not None:
        box = bounding_box(mask)
        x, y, mask = x[box], y[box], mask[box]
    short = [n <= 2 * SSIM_RADIUS for n in x.shape]
    pad = [(SSIM_RADIUS, SSIM_RADIUS) if s else (0, 0) for s in short]
    inner = tuple(slice(SSIM_RADIUS, -SSIM_RADIUS) if s else slice(None) for s in short)
    similarity = structural_similarity(
        np.pad(x, pad, mode="symmetric"),
        np.pad(y, pad, mode="symmetric"),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1][inner]
    return float(np.mean(similarity if mask is None else similarity[mask], dtype=np.float64))


def dice(
    labels_a: Integer[np.ndarray, "*shape"], labels_b: Integer[np.ndarray, "*shape"], label: int
) -> float:
    """2 |A and B| / (|A| + |B|) of one label; nan where neither has it."""
    a, b = labels_a == label, labels_b == label
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def folding(
    flow: Float[np.ndarray, "d h w 3"], mask: Bool[np.ndarray, "d h w"] | None = None
) -> float:
    """Share of voxels where x + flow(x) has a non-positive Jacobian determinant.

    flow is in voxels, components (d, h, w). Derivatives are central differences, one-sided at the
    borders; each axis needs at least two voxels.
    """
    if min(flow.shape[:3]) < 2:
        raise ValueError(f"folding: flow has shape {flow.shape}; d, h and w must be at least 2")
    along_d, along_h, along_w = (
        np.gradient(flow, axis=axis) + np.eye(3, dtype=flow.dtype)[axis] for axis in range(3)
    )
    determinant = np.sum(along_d * np.cross(along_h, along_w), axis=-1)
    return float(np.mean(_inside(determinant, mask) <= 0))


def voxel_volumes(labels: Integer[np.ndarray, "t d h w"], label: int = 3) -> Int[np.ndarray, " t"]:
    """Voxels of the label in each frame: the volume curve, by default of the left ventricle."""
    return np.sum(labels == label, axis=(1, 2, 3))


def ejection_fraction(
    ed_labels: Integer[np.ndarray, "d h w"], es_labels: Integer[np.ndarray, "d h w"], label: int = 3
) -> float:
    """(V_ED - V_ES) / V_ED of one label, by default the left ventricle; nan where ED has none."""
    ed, es = voxel_volumes(np.stack([ed_labels, es_labels]), label)
    return float((ed - es) / ed) if ed else float("nan")


def roughness(
    frames: Float[np.ndarray, "t d h w"], mask: Bool[np.ndarray, "d h w"] | None = None
) -> float:
    """Mean squared second difference over time, inside the mask: what flickers is large.

    0 for frames that change linearly; nan below three frames.
    """
    if len(frames) < 3:
        return float("nan")
    bends = (frames[i] - 2 * frames[i + 1] + frames[i + 2] for i in range(len(frames) - 2))
    return float(np.mean([_mean_square(bend, mask) for bend in bends]))


def bounding_box(mask: Bool[np.ndarray, "*shape"]) -> tuple[slice, ...]:
    """The smallest box that holds the mask. Raises ValueError for an empty one."""
    return tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(_occupied(mask)))


def _mean_square(x: Float[np.ndarray, "*shape"], mask: Bool[np.ndarray, "*shape"] | None) -> float:
    return float(np.mean(np.square(_inside(x, mask), dtype=np.float64)))


def _inside(x: Float[np.ndarray, "*shape"], mask: Bool[np.ndarray, "*shape"] | None) -> np.ndarray:
    return x if mask is None else x[_occupied(mask)]


def _occupied(mask: Bool[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    if not mask.any():
        raise ValueError(f"the mask of shape {mask.shape} is empty; it needs at least one voxel")
    return mask
