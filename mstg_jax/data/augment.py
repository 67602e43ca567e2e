"""Training examples as other patients might look: turned, of another size and contrast."""

import math

import numpy as np
from jaxtyping import Float32

from mstg_jax.config import DataConfig
from mstg_jax.data.labels import UNKNOWN


def power_of(config: DataConfig, rng: np.random.Generator) -> float:
    """What intensities are raised to, the same for all frames of an example."""
    if config.contrast == 0:
        return 1.0
    return float((1 + config.contrast) ** rng.uniform(-1, 1))


def raised(images: Float32[np.ndarray, "n d h w"], power: float) -> Float32[np.ndarray, "n d h w"]:
    """Intensities of a range scaled to [0, 1]; those below 0 keep their sign."""
    return images if power == 1 else np.sign(images) * np.abs(images) ** np.float32(power)


def augmented(
    item: dict[str, np.ndarray], config: DataConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """An item of a batch with everything that lies on the grid flipped, turned and zoomed alike."""
    item = _flipped(item, rng) if config.augment else item
    if config.rotate == 0 and config.zoom == 0:
        return item
    angle = math.radians(config.rotate * rng.uniform(-1, 1))
    zoom = (1 + config.zoom) ** rng.uniform(-1, 1)
    return _turned(item, angle, zoom, config.spacing[1:])


def _flipped(item: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """DDM's augmentation: flips of h and w and their transpose, each with probability 0.5."""
    flip_h, flip_w, transpose = rng.random(3) < 0.5
    _, height, width = item["ed"].shape

    def apply(x: np.ndarray) -> np.ndarray:
        if np.ndim(x) < 3:
            return x
        x = x[..., ::-1, :] if flip_h else x
        x = x[..., ::-1] if flip_w else x
        return x.swapaxes(-1, -2) if transpose and height == width else x

    return {key: apply(value) for key, value in item.items()}


def _turned(
    item: dict[str, np.ndarray], angle: float, zoom: float, spacing: tuple[float, float]
) -> dict[str, np.ndarray]:
    """About the middle of the plane: images by cubic splines, labels and view by the nearest voxel.

    What comes from beyond the grid is out of view, and 0.
    """
    from scipy import ndimage  # Here because it takes a tenth of a second to import.

    size = np.array(spacing)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn * size / size[:, None] / zoom
    middle = (np.array(item["fov"].shape[1:]) - 1) / 2
    offset = middle - matrix @ middle

    def turned(x: np.ndarray, order: int) -> np.ndarray:
        planes = x.reshape(-1, *x.shape[-2:])
        made = [
            ndimage.affine_transform(plane, matrix, offset, order=order)  # pyright: ignore[reportArgumentType]
            for plane in planes
        ]
        return np.stack(made).reshape(x.shape)

    fov = turned(item["fov"].astype(np.uint8), 0).astype(np.bool_)

    def apply(x: np.ndarray) -> np.ndarray:
        if np.ndim(x) < 3 or not x.any() or (x == UNKNOWN).all():
            return x
        if x.ndim > 3 and x.dtype == np.uint8:
            return np.stack([apply(labels) for labels in x])
        return turned(x, 3 if x.dtype == np.float32 else 0) * fov

    rest = {key: apply(value) for key, value in item.items() if key != "fov"}
    return rest | {"fov": fov}
