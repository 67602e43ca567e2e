"""Resolutions, displaced features, and the plan of what networks halve."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp
from scipy import ndimage

from mstg_jax.models.plan import alike, by_spacing
from mstg_jax.models.rescale import enlarged, gathered, mean_of_blocks, scattered
from mstg_jax.models.symmetry import symmetries
from mstg_jax.models.warping import correlation, moved

SHAPE = (4, 6, 8)
FACTORS = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 1, 2)]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("factor", FACTORS)
def test_gathered_and_scattered_are_inverse(factor):
    x = jnp.asarray(random(2, *SHAPE, 3))
    small = gathered(x, factor)
    assert small.shape == (
        2, *(n // f for n, f in zip(SHAPE, factor, strict=True)), 3 * np.prod(factor)
    )  # fmt: skip
    np.testing.assert_array_equal(scattered(small, factor), x)
    blocks = small.reshape(*small.shape[:-1], -1, 3).mean(-2)
    np.testing.assert_allclose(mean_of_blocks(x, factor), blocks, atol=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
def test_enlarged_is_linear_interpolation(factor):
    """As jax.image.resize; a ramp stays a ramp, and a constant what it is."""
    x = jnp.asarray(random(1, *SHAPE, 2))
    shape = (1, *(n * f for n, f in zip(SHAPE, factor, strict=True)), 2)
    np.testing.assert_allclose(enlarged(x, factor), jax.image.resize(x, shape, "linear"), atol=1e-5)


@pytest.mark.parametrize("axes", [2, 3])
def test_moved_is_scipys_interpolation(axes):
    x, flow = random(2, *SHAPE, 3), 2 * random(2, *SHAPE, axes, seed=1)
    got = jax.jit(moved)(jnp.asarray(x), jnp.asarray(flow))
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(np.float32)
    for i in range(2):
        places = grid.copy()
        places[3 - axes :] += np.moveaxis(flow[i], -1, 0)
        for c in range(3):
            expected = ndimage.map_coordinates(x[i, ..., c], places, order=1, mode="nearest")
            np.testing.assert_allclose(got[i, ..., c], expected, atol=1e-5)


def test_moved_by_nothing_is_the_same_to_the_last_bit():
    x = jnp.asarray(random(1, *SHAPE, 2))
    np.testing.assert_array_equal(moved(x, jnp.zeros((1, *SHAPE, 2))), x)


def test_moved_has_the_slope_of_a_difference():
    x, flow = jnp.asarray(random(1, *SHAPE, 1)), 0.3 * jnp.asarray(random(1, *SHAPE, 2, seed=1))
    direction = jnp.asarray(random(1, *SHAPE, 2, seed=2))

    def total(step):
        return jnp.sum(jnp.square(moved(x, flow + step * direction)))

    slope, h = jax.grad(total)(0.0), 1e-3
    np.testing.assert_allclose(slope, (total(h) - total(-h)) / (2 * h), rtol=2e-2)


def test_correlation_finds_a_shift():
    x = random(1, 2, 10, 10, 6)
    shifted = np.roll(x, (1, -2), (2, 3))
    found = np.asarray(correlation(jnp.asarray(x), jnp.asarray(shifted), 2))
    assert found.shape == (1, 2, 10, 10, 25)
    inner = found[:, :, 2:-2, 2:-2].reshape(-1, 25)
    assert set(inner.argmax(-1)) == {(1 + 2) * 5 + (-2 + 2)}
    np.testing.assert_allclose(inner.max(-1), 1.0, atol=1e-4)
    assert np.abs(found).max() <= 1 + 1e-5


def test_planes_are_halved_first():
    plan = by_spacing((10.0, 1.5, 1.5), 4)
    assert plan.factors == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert plan.flat == (True, False, False, False)
    assert plan.halvings == (2, 4, 4)
    assert by_spacing((3.0, 1.5, 1.5), 2).factors == ((2, 2, 2), (2, 2, 2))
    assert alike(3).halvings == (2, 2, 2)


@given(st.floats(0.5, 20), st.floats(0.5, 3), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_depth_is_halved_only_where_it_is_as_fine(depth, plane, stages):
    plan = by_spacing((depth, plane, plane), stages)
    for d, h, w in plan.factors:
        assert (h, w) == (2, 2)
        assert (d == 2) == (depth <= 2 * plane)
        depth, plane = depth * d, plane * 2


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 6, 8)])
def test_symmetries_and_their_inverses(shape):
    x, flow = jnp.asarray(random(1, *shape, 1)), jnp.asarray(random(1, *shape, 3))
    found = symmetries(shape[1:])
    assert len(found) == (8 if shape[1] == shape[2] else 4)
    images = {np.asarray(one.turned(x)).tobytes() for one in found}
    assert len(images) == len(found)
    for one in found:
        np.testing.assert_array_equal(one.back(one.turned(x)), x)
        # What moves a turned image by a turned displacement is the moved image, turned.
        turned = moved(one.turned(x), flow[..., 1:])
        np.testing.assert_allclose(
            one.back(turned), moved(x, one.flow_back(flow)[..., 1:]), atol=1e-5
        )
