"""Examples turned, zoomed and of another contrast."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstg_jax.config import DataConfig, SettingsError
from mstg_jax.data.augment import UNKNOWN, augmented, power_of, raised

PLAIN = DataConfig(augment=False)
SIDE = 33


def item(labels: bool = True) -> dict[str, np.ndarray]:
    """A smooth blob off the middle, and a label where it is bright."""
    h, w = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    blob = np.exp(-((h - 4) ** 2 + (w + 5) ** 2) / 18).astype(np.float32)
    image = np.stack([blob, 0.5 * blob])
    fov = np.ones(image.shape, np.bool_)
    label = (image > 0.4).astype(np.uint8) if labels else np.full(image.shape, UNKNOWN, np.uint8)
    return {
        "ed": image,
        "es": image,
        "bend": np.zeros((2, *image.shape), np.float32),
        "frames": image[None],
        "gammas": np.array([0.5], np.float32),
        "span": np.array([0.4, 10.0], np.float32),
        "labels_ed": label,
        "labels_es": label,
        "fov": fov,
    }


def centre(image: np.ndarray) -> np.ndarray:
    """Of mass, from the middle of the plane."""
    grid = np.indices(image.shape) - SIDE // 2
    return np.array([(axis * image).sum() / image.sum() for axis in grid])


class Fixed(np.random.Generator):
    """Draws the given numbers in place of uniform ones."""

    def __init__(self, *values: float):
        super().__init__(np.random.PCG64(0))
        self.values = list(values)

    def uniform(self, *_: float) -> float:
        return self.values.pop(0)


def test_nothing_is_drawn_where_nothing_is_asked():
    """So runs without these flags see the examples that they saw before."""
    rng = np.random.default_rng(0)
    given = item()
    made = augmented(given, PLAIN, rng)
    assert power_of(PLAIN, rng) == 1
    assert all(made[key] is given[key] for key in given)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("share", [-1.0, 0.4, 1.0])
def test_turned_by_an_angle(share: float):
    """Image, label and view alike, about the middle of the plane."""
    made = augmented(item(), replace(PLAIN, rotate=90.0), Fixed(share, 0.0))
    angle = math.radians(90 * share)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    wanted = turn @ [4, -5]
    for key in ("ed", "es", "frames", "labels_ed", "labels_es"):
        planes = made[key].reshape(-1, SIDE, SIDE)
        assert len(planes) == 2
        np.testing.assert_allclose(centre(planes[0]), wanted, atol=0.15)
    assert made["ed"].max() == pytest.approx(1, abs=0.02)
    assert set(np.unique(made["labels_ed"])) == {0, 1}
    assert made["fov"].dtype == np.bool_
    assert made["gammas"] == [0.5]


@pytest.mark.parametrize("share", [-1.0, 1.0])
def test_zoomed_by_a_share(share: float):
    made = augmented(item(), replace(PLAIN, zoom=0.25), Fixed(0.0, share))
    np.testing.assert_allclose(centre(made["ed"][0]), 1.25**share * np.array([4, -5]), atol=0.1)
    area = made["ed"][0].sum() / item()["ed"][0].sum()
    assert area == pytest.approx(1.25 ** (2 * share), rel=0.01)
    corner = made["fov"][0, 0, 0]
    assert bool(corner) == (share > 0)  # smaller ones leave a rim that nothing is known of
    assert not made["ed"][~made["fov"]].any()


def test_voxels_that_are_not_square_turn_as_they_lie():
    """A quarter turn of a grid that is finer along w: millimetres stay millimetres."""
    config = replace(PLAIN, rotate=90.0, spacing=(10.0, 1.25, 1.0))
    made = augmented(item(), config, Fixed(1.0, 0.0))
    np.testing.assert_allclose(centre(made["ed"][0]), [-5 / 1.25, -4 * 1.25], atol=0.15)


def test_unknown_labels_stay_unknown():
    made = augmented(item(labels=False), replace(PLAIN, rotate=30.0), Fixed(1.0, 0.0))
    assert (made["labels_ed"] == UNKNOWN).all()
    assert not made["fov"].all()


@given(st.floats(0.01, 2.0), st.integers(0, 99))
def test_contrast_keeps_black_white_and_order(contrast: float, seed: int):
    power = power_of(replace(PLAIN, contrast=contrast), np.random.default_rng(seed))
    assert 1 / (1 + contrast) <= power <= 1 + contrast
    values = np.array([-0.2, 0.0, 0.3, 0.6, 1.0, 1.2], np.float32)
    made = raised(values.reshape(6, 1, 1, 1), power).ravel()
    assert made.dtype == np.float32
    assert made[1] == 0
    assert made[4] == 1
    assert np.all(np.diff(made) > 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rotate": -1.0}, "data.rotate is -1.0"),
        ({"rotate": 181.0}, "data.rotate is 181.0"),
        ({"zoom": 1.0}, "data.zoom is 1.0"),
        ({"contrast": -0.1}, "data.contrast is -0.1"),
    ],
)
def test_wrong_settings(wrong: dict[str, float], said: str):
    with pytest.raises(SettingsError, match=said):
        replace(PLAIN, **wrong).check()
