"""Metrics: closed-form cases and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import structural_similarity

from mstg_jax.evaluation.scoring import metrics

few = settings(max_examples=20, deadline=None)
volumes = arrays(np.float32, (3, 6, 5), elements=st.floats(0, 1, width=32))
labellings = arrays(np.uint8, (3, 4, 4), elements=st.integers(0, 3))


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def grid(shape: tuple[int, int, int]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float32)


@pytest.mark.parametrize(("offset", "decibel"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_psnr_of_a_known_error(offset, decibel):
    truth = noise(0, (4, 5, 6)).astype(np.float64)
    assert metrics.psnr(truth + offset, truth) == pytest.approx(decibel, abs=1e-6)


def test_psnr_of_identical_volumes_is_finite():
    truth = noise(0, (4, 5, 6))
    assert metrics.psnr(truth, truth) == 100


def test_nmse_by_hand():
    truth = np.array([3.0, 4.0])
    assert metrics.nmse(np.array([3.0, 3.0]), truth) == pytest.approx(1 / 25)
    assert metrics.nmse(np.zeros(2), truth) == 1
    assert np.isnan(metrics.nmse(truth, np.zeros(2)))


@few
@given(volumes, volumes, st.floats(0.1, 10))
def test_nmse_does_not_depend_on_the_scale(x, y, scale):
    y = y + np.float32(0.1)
    expected = metrics.nmse(x, y)
    assert metrics.nmse(x * scale, y * scale) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@few
@given(volumes, volumes)
def test_only_the_mask_counts(x, y):
    """Changing voxels outside a box-shaped mask changes no masked metric."""
    mask = np.zeros(x.shape, bool)
    mask[1:, 1:5, 2:] = True
    other = np.where(mask, x, np.float32(7))
    for metric in (metrics.psnr, metrics.ssim):
        assert metric(x, y, mask) == metric(other, y, mask)
    assert metrics.psnr(x, y, mask) == metrics.psnr(x[1:, 1:5, 2:], y[1:, 1:5, 2:])
    assert metrics.ssim(x, y, mask) == pytest.approx(metrics.ssim(x[1:, 1:5, 2:], y[1:, 1:5, 2:]))


def test_an_empty_mask_is_refused():
    x = noise(0, (3, 4, 5))
    for metric in (metrics.psnr, metrics.nmse, metrics.ssim):
        with pytest.raises(ValueError, match=r"mask of shape \(3, 4, 5\) is empty"):
            metric(x, x, np.zeros(x.shape, bool))


@pytest.mark.parametrize("depth", [1, 3, 10, 11, 14])
def test_ssim_of_any_depth(depth):
    x, y = noise(1, (depth, 16, 12)), noise(2, (depth, 16, 12))
    assert metrics.ssim(x, x) == pytest.approx(1, abs=1e-6)
    assert metrics.ssim(x, y) == pytest.approx(metrics.ssim(y, x), abs=1e-6)
    assert metrics.ssim(x, y) < metrics.ssim(x, x + 0.02 * (y - x)) < 1


def test_ssim_of_shallow_volumes_is_the_same_number():
    """A volume without structure along d scores as a deep one does, however few its slices."""
    x, y = noise(1, (1, 16, 12)), noise(2, (1, 16, 12))
    deep = metrics.ssim(np.repeat(x, 14, 0), np.repeat(y, 14, 0))
    assert metrics.ssim(np.repeat(x, 3, 0), np.repeat(y, 3, 0)) == pytest.approx(deep, abs=1e-5)
    assert metrics.ssim(x, y) == pytest.approx(deep, abs=1e-5)


def test_ssim_is_that_of_scikit_image_where_that_applies():
    x, y = noise(1, (12, 16, 13)), noise(2, (12, 16, 13))
    options = {"win_size": 11, "gaussian_weights": True, "use_sample_covariance": False}
    similarity = structural_similarity(x, y, data_range=1, full=True, **options)[1]
    assert metrics.ssim(x, y) == pytest.approx(similarity.mean(), abs=1e-6)


def test_ssim_of_constants():
    """Luminance term alone: (2 ab + c1) / (a^2 + b^2 + c1), c1 = 1e-4."""
    x, y = np.full((4, 12, 12), 0.5), np.full((4, 12, 12), 0.25)
    assert metrics.ssim(x, y) == pytest.approx(0.2501 / 0.3126)


def test_dice_by_hand():
    a, b = np.array([1, 1, 0, 2]), np.array([1, 0, 1, 0])
    assert metrics.dice(a, b, 1) == 0.5
    assert metrics.dice(a, b, 2) == 0
    assert np.isnan(metrics.dice(a, b, 3))


@few
@given(labellings, labellings, st.integers(1, 3))
def test_dice_is_symmetric_and_one_with_itself(a, b, label):
    assert metrics.dice(a, b, label) == pytest.approx(metrics.dice(b, a, label), nan_ok=True)
    assert metrics.dice(a, a, label) == pytest.approx(
        1 if (a == label).any() else np.nan, nan_ok=True
    )


def test_folding_of_linear_maps():
    """x + flow = M x folds everywhere or nowhere, by the sign of det M."""
    where = grid((4, 5, 6))
    assert metrics.folding(np.zeros_like(where)) == 0
    assert metrics.folding(np.full_like(where, 2.5)) == 0
    for axis in range(3):
        reflected = np.zeros_like(where)
        reflected[..., axis] = -2 * where[..., axis]
        assert metrics.folding(reflected) == 1
    assert metrics.folding(-2 * where) == 1
    assert metrics.folding(where[..., ::-1] - where) == 1
    assert metrics.folding(where[..., [1, 2, 0]] - where) == 0
    assert metrics.folding(-where) == 1


def test_folding_counts_inside_the_mask():
    where = grid((4, 4, 8))
    flow = np.zeros_like(where)
    flow[..., 2] = np.where(where[..., 2] < 4, 0, -3 * (where[..., 2] - 4))
    left = where[..., 2] < 4
    assert metrics.folding(flow, left) == 0
    assert metrics.folding(flow, where[..., 2] > 4) == 1
    assert 0 < metrics.folding(flow) < 1


def test_folding_needs_two_voxels():
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\); d, h and w must be at least 2"):
        metrics.folding(np.zeros((1, 4, 4, 3), np.float32))


def test_volumes_and_ejection_fraction():
    labels = np.zeros((2, 3, 4, 5), np.uint8)
    labels[0, :2, :2, :5], labels[1, :2, :2, :2] = 3, 3
    assert metrics.voxel_volumes(labels).tolist() == [20, 8]
    assert metrics.ejection_fraction(labels[0], labels[1]) == pytest.approx(0.6)
    assert metrics.ejection_fraction(labels[0], labels[0]) == 0
    assert np.isnan(metrics.ejection_fraction(labels[0], labels[1], label=1))
