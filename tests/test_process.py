"""Forward process, conversions between predictions, and DDM's losses."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstg_jax.config import DiffusionConfig, Prediction
from mstg_jax.diffusion.losses import local_ncc, smoothness
from mstg_jax.diffusion.process import Level, as_input, q_sample, target, to_x0_eps
from mstg_jax.diffusion.schedule import make_schedule

ncc = jax.jit(local_ncc, static_argnums=2)
gradient_of_both = jax.jit(jax.grad(local_ncc, argnums=(0, 1)))
SCHEDULE = make_schedule(DiffusionConfig(beta_start=1e-4, beta_end=2e-2, steps=200))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_q_sample_moments():
    """Of data N(2, 0.25): mean sqrt(ab) 2, variance 0.25 ab + 1 - ab."""
    count = 20_000
    x0 = 2.0 + 0.5 * normal(0, 3, count)
    x_t = q_sample(SCHEDULE.at(jnp.array([0, 100, 199])), x0, normal(1, 3, count))
    alpha_bar = np.asarray(SCHEDULE.alpha_bar)[[0, 100, 199]]
    np.testing.assert_allclose(x_t.mean(1), 2 * np.sqrt(alpha_bar), atol=0.04)
    np.testing.assert_allclose(x_t.var(1), 0.25 * alpha_bar + 1 - alpha_bar, rtol=0.06)


def test_q_sample_takes_the_step_of_each_item():
    x0, noise = normal(0, 2, 3, 4, 5, 1), normal(1, 2, 3, 4, 5, 1)
    both = jax.jit(q_sample)(SCHEDULE.at(jnp.array([3, 150])), x0, noise)
    for item, t in enumerate((3, 150)):
        expected = SCHEDULE.sqrt_alpha_bar[t] * x0[item]
        expected += SCHEDULE.sqrt_one_minus_alpha_bar[t] * noise[item]
        np.testing.assert_allclose(both[item], expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(typing.get_args(Prediction)),
    t=st.integers(0, 199),
    stretch=st.floats(0.5, 2),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_perfect_prediction_gives_x0_and_eps_back(kind, t, stretch, seed):
    """Also where the squares of signal and sigma do not add up to 1."""
    x0, eps = normal(seed, 2, 3, 4, 5, 1), normal(seed + 1, 2, 3, 4, 5, 1)
    level = SCHEDULE.at(jnp.array([t, 199 - t]))
    level = level._replace(signal=stretch * level.signal)
    x_t = q_sample(level, x0, eps)
    prediction = target(level, x0, eps, kind)
    x0_back, eps_back = to_x0_eps(level, prediction, x_t, kind)
    # eps from x0 divides float32 rounding by sqrt(1 - alpha_bar) >= 0.01.
    np.testing.assert_allclose(x0_back, x0, atol=1e-5)
    np.testing.assert_allclose(eps_back, eps, atol=2e-4)


@settings(max_examples=10, deadline=None)
@given(t=st.integers(0, 199), seed=st.integers(0, 2**31 - 1))
def test_eps_to_x0_to_eps(t, seed):
    """Any prediction, not only a perfect one, survives the way there and back."""
    x_t, eps, level = normal(seed, 1, 50), normal(seed + 1, 1, 50), SCHEDULE.at(jnp.array([t]))
    x0, _ = to_x0_eps(level, eps, x_t, "eps")
    _, eps_back = to_x0_eps(level, x0, x_t, "x0")
    np.testing.assert_allclose(eps_back, eps, atol=2e-4)


def test_v_is_orthogonal_to_x_t():
    """Salimans & Ho: (x_t, v) is (x_0, eps) rotated, so it keeps the length."""
    x0, eps, level = normal(0, 1, 50), normal(1, 1, 50), SCHEDULE.at(jnp.array([120]))
    x_t = q_sample(level, x0, eps)
    v = target(level, x0, eps, "v")
    np.testing.assert_allclose(x_t**2 + v**2, x0**2 + eps**2, rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_edm_scales_what_goes_in_and_what_comes_out_to_variance_one(sigma):
    """Karras et al., appendix B.6: for data of deviation 0.5, at any sigma."""
    x0, eps = 0.5 * normal(0, 1, 20_000), normal(1, 1, 20_000)
    level = Level(jnp.ones(1), jnp.array([sigma]), jnp.zeros(1))
    seen = as_input(level, q_sample(level, x0, eps), "edm")
    np.testing.assert_allclose([seen.std(), target(level, x0, eps, "edm").std()], 1, rtol=0.02)


def ncc_by_sliding_window(x, y, window):
    """float64, voxel by voxel, from the definition: zero padding, count window^3 everywhere."""
    half, values = window // 2, []
    x, y = (np.pad(np.asarray(a, np.float64)[0, ..., 0], half) for a in (x, y))
    for index in np.ndindex(*(n - 2 * half for n in x.shape)):
        cube = tuple(slice(i, i + window) for i in index)
        a, b = x[cube] - x[cube].mean(), y[cube] - y[cube].mean()
        values.append(np.sum(a * b) ** 2 / (np.sum(a * a) * np.sum(b * b) + 1e-5))
    return np.mean(values)


def images(shape, seed=0):
    """A volume and a noisy copy in [0, 1], batch and channel axes added."""
    rng = np.random.default_rng(seed)
    x = rng.random(shape)
    y = 0.5 * x + 0.5 * rng.random(shape)
    return jnp.asarray(x, jnp.float32)[None, ..., None], jnp.asarray(y, jnp.float32)[
        None, ..., None
    ]


@pytest.mark.parametrize(("shape", "window"), [((11, 12, 13), 9), ((4, 5, 20), 9), ((6, 7, 8), 3)])
def test_ncc_equals_a_sliding_window(shape, window):
    x, y = images(shape)
    expected = ncc_by_sliding_window(x, y, window)
    np.testing.assert_allclose(ncc(x, y, (window,) * 3), expected, rtol=1e-5)


def test_ncc_where_half_the_image_is_constant():
    """Windows inside a bright flat region have variance 0, which float32 must not make negative."""
    x, y = images((10, 12, 30))
    x, y = x.at[..., 10:, :].set(1.0), y.at[..., 10:, :].set(0.9)
    np.testing.assert_allclose(ncc(x, y), ncc_by_sliding_window(x, y, 9), atol=1e-5)


def test_ncc_of_an_image_with_itself_is_one():
    x, _ = images((12, 16, 16))
    np.testing.assert_allclose(ncc(x, x), 1.0, atol=1e-5)


@settings(max_examples=5, deadline=None)
@given(scale=st.floats(0.5, 2), seed=st.integers(0, 100))
def test_ncc_is_symmetric_and_ignores_scale(scale, seed):
    x, y = images((9, 10, 11), seed)
    np.testing.assert_allclose(ncc(x, y), ncc(y, x), rtol=1e-5)
    np.testing.assert_allclose(ncc(x * scale, y), ncc(x, y), rtol=1e-4)


def test_ncc_of_a_batch_is_the_mean_of_its_items():
    x, y = (
        jnp.concatenate(pair)
        for pair in zip(images((9, 10, 11)), images((9, 10, 11), 1), strict=True)
    )
    separate = [ncc(x[i : i + 1], y[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(ncc(x, y), np.mean(separate), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_ncc_gradient_is_finite_where_images_are_constant(value):
    textured, _ = images((9, 10, 11))
    flat = jnp.full((1, 9, 10, 11, 1), value)
    for x, y in ((flat, flat), (flat, textured), (textured, flat)):
        for gradient in gradient_of_both(x, y):
            assert np.all(np.isfinite(gradient))


def test_ncc_gradient_is_its_slope():
    x, y = images((9, 10, 11))
    direction = images((9, 10, 11), 5)[0] - 0.5
    slope = jnp.sum(gradient_of_both(x, y)[0] * direction)
    h = 1e-2
    expected = ncc_by_sliding_window(x + h * direction, y, 9)
    expected -= ncc_by_sliding_window(x - h * direction, y, 9)
    np.testing.assert_allclose(slope, expected / (2 * h), rtol=5e-3)


@settings(max_examples=10, deadline=None)
@given(slopes=st.lists(st.floats(-2, 2, width=32), min_size=9, max_size=9))
def test_smoothness_of_a_linear_flow(slopes):
    """Slope M[k, axis] of component k: the mean over 3 axes and 3 components of M^2."""
    matrix = np.asarray(slopes, np.float64).reshape(3, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, (4, 5, 6)), indexing="ij"), axis=-1)
    flow = jnp.asarray(grid @ matrix.T, jnp.float32)[None]
    np.testing.assert_allclose(smoothness(flow), np.mean(matrix**2), rtol=1e-4, atol=1e-6)


def test_smoothness_of_a_constant_flow_is_zero():
    assert smoothness(jnp.full((2, 3, 4, 5, 3), 7.0)) == 0


def test_smoothness_averages_each_axis_by_its_own_count():
    """One step of 1 in one component along d: mean 1/3 over components, of 3 axes only d counts."""
    flow = jnp.zeros((1, 2, 6, 7, 3)).at[:, 1, :, :, 0].set(1.0)
    np.testing.assert_allclose(smoothness(flow), 1 / 9, rtol=1e-6)
