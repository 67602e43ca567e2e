"""Betas as DDM defines them, and the constants derived from them."""

import typing
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstg_jax.config import DiffusionConfig, ScheduleName
from mstg_jax.diffusion.schedule import betas, make_schedule

OTHERS = ("flow", "edm", "learned")
NAMES = [n for n in typing.get_args(ScheduleName) if n not in OTHERS]


def config(name: Any = "linear", start=1e-4, end=2e-2, steps=20):
    return DiffusionConfig(schedule=name, beta_start=start, beta_end=end, steps=steps)


@pytest.mark.parametrize("name", NAMES)
def test_betas_are_non_decreasing_variances(name):
    beta = betas(config(name))
    assert beta.shape == (20,)
    assert beta.dtype == np.float64
    assert beta.min() > 0
    assert beta.max() <= 1
    assert np.all(np.diff(beta) >= 0)


def test_betas_at_known_points():
    start, end = 1e-4, 2e-2
    for name in ("linear", "quad", "warmup10", "warmup50"):
        beta = betas(config(name))
        np.testing.assert_allclose(beta[[0, -1]], [start, end], rtol=1e-12)
    np.testing.assert_allclose(betas(config("linear"))[1], start + (end - start) / 19, rtol=1e-12)
    middle = ((start**0.5 + end**0.5) / 2) ** 2
    np.testing.assert_allclose(betas(config("quad", steps=3))[1], middle, rtol=1e-12)
    np.testing.assert_allclose(betas(config("warmup10")), [start] + [end] * 19, rtol=1e-12)
    np.testing.assert_allclose(betas(config("warmup50"))[9:], end, rtol=1e-12)
    np.testing.assert_allclose(betas(config("warmup50"))[8], end - (end - start) / 9, rtol=1e-12)
    np.testing.assert_allclose(betas(config("const")), end, rtol=1e-12)
    np.testing.assert_allclose(betas(config("jsd", steps=4)), [1 / 4, 1 / 3, 1 / 2, 1], rtol=1e-12)


def test_cosine_follows_its_closed_form_until_the_clip():
    steps = 100
    beta = betas(config("cosine", steps=steps))
    assert beta[-1] == 0.999
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - beta)[:-1], (f / f[0])[1:-1], rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 20, 2000])
@pytest.mark.parametrize("name", NAMES)
def test_alpha_bar_is_the_float64_product(name, steps):
    settings_ = config(name, steps=steps)
    alpha_bar = np.cumprod(1 - betas(settings_))
    schedule = make_schedule(settings_)
    np.testing.assert_allclose(schedule.alpha_bar, alpha_bar, rtol=1e-7, atol=1e-30)
    np.testing.assert_allclose(schedule.sqrt_alpha_bar, np.sqrt(alpha_bar), rtol=1e-7, atol=1e-30)
    np.testing.assert_allclose(schedule.sqrt_one_minus_alpha_bar, np.sqrt(1 - alpha_bar), rtol=1e-7)


def test_small_noise_keeps_its_precision():
    """In float32, 1 - alpha_bar[0] would be 1.013e-6 for a beta of 1e-6."""
    schedule = make_schedule(DiffusionConfig())
    np.testing.assert_allclose(schedule.sqrt_one_minus_alpha_bar[0], 1e-3, rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_posterior_is_bayes_rule(name):
    """q(x_s | x_t, x_0): the product of N(x_t; sqrt(alpha) x_s, beta) and N(x_s; ..., 1 - ab_s)."""
    beta = betas(config(name))[1:]
    before = np.cumprod(1 - betas(config(name)))[:-1]
    precision = (1 - beta) / beta + 1 / (1 - before)
    schedule = make_schedule(config(name))
    np.testing.assert_allclose(schedule.posterior_variance[1:], 1 / precision, rtol=1e-6)
    np.testing.assert_allclose(
        schedule.posterior_xt[1:], np.sqrt(1 - beta) / beta / precision, rtol=1e-6
    )
    np.testing.assert_allclose(
        schedule.posterior_x0[1:], np.sqrt(before) / (1 - before) / precision, rtol=1e-6
    )
    np.testing.assert_allclose(schedule.posterior_log_variance[1:], -np.log(precision), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_returns_to_clean_data(name):
    schedule = make_schedule(config(name))
    assert schedule.posterior_variance[0] == 0
    np.testing.assert_allclose(schedule.posterior_log_variance[0], np.log(1e-20), rtol=1e-6)
    np.testing.assert_allclose(schedule.posterior_x0[0], 1, rtol=1e-6)
    assert schedule.posterior_xt[0] == 0


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    start=st.floats(0, 0.5),
    more=st.floats(0, 0.49),
    steps=st.integers(1, 50),
)
def test_every_allowed_range_gives_a_finite_schedule(name, start, more, steps):
    schedule = make_schedule(config(name, start, start + more, steps))
    for field, values in schedule._asdict().items():
        assert values.shape == (steps,), field
        assert values.dtype == np.float32, field
        assert np.all(np.isfinite(values)), field
    assert np.all(np.diff(schedule.alpha_bar) <= 0)


def test_schedule_is_a_pytree():
    schedule = make_schedule(config())
    doubled = jax.jit(lambda s: jax.tree.map(lambda x: x + x, s))(schedule)
    np.testing.assert_array_equal(doubled.beta, 2 * np.asarray(schedule.beta))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, r"steps is 0; at least 1"),
        ({"start": -1e-6}, r"beta_start is -1e-06"),
        ({"start": 0.03}, r"beta_start is 0.03 and diffusion.beta_end is 0.02"),
        ({"end": 1.0}, r"beta_end is 1.0"),
        ({"start": float("nan")}, r"beta_start is nan"),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        betas(config(**wrong))
