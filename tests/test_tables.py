"""The coefficients of each sampler, beside their papers' formulas."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import (
    CONFIG,
    EDM,
    KEY,
    LONG,
    STEPS,
    optimum,
    spread_of,
    table_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mstg_jax.config import DiffusionConfig
from mstg_jax.diffusion.paths import Edges, make_path
from mstg_jax.diffusion.samplers import (
    ddim,
    dpm_solver,
    heun,
    optimal,
    reverse_diffusion,
)
from mstg_jax.diffusion.schedule import make_schedule


def test_the_optimal_variance_is_that_of_the_paper():
    """Bao et al., theorem 1, in their own terms: Gamma = E |score|^2 / d, for data N(0, 0.25)."""
    config = replace(LONG, sampler="ddpm", sampler_steps=10)
    table, edges = table_of(config), make_path(config).edges(10)
    best = optimal(table, np.array(spread_of(table, 0.25)))
    bar_t, bar_s = edges.signal[:-2] ** 2, edges.signal[1:-1] ** 2
    alpha, lambda2 = bar_t / bar_s, table.noise[:-1] ** 2
    gamma = 1 / (bar_t * 0.25 + 1 - bar_t)  # of N(0, v): E |x / v|^2 = 1 / v
    change = np.sqrt((1 - bar_t) / alpha) - np.sqrt(1 - bar_s - lambda2)
    wanted = lambda2 + change**2 * (1 - (1 - bar_t) * gamma)
    np.testing.assert_allclose(best.noise[:-1] ** 2, wanted, rtol=1e-6)
    assert best.noise[-1] == 0


def even_in_lambda(steps: int) -> Edges:
    """Of log(signal / sigma) from -2 to 9, and from there to clean data."""
    log_bar = np.append(-np.log1p(np.exp(-2 * np.linspace(-2, 9, steps))), 0.0)
    return Edges(np.arange(steps), np.exp(log_bar / 2), np.sqrt(-np.expm1(log_bar)))


def straight(steps: int) -> Edges:
    """The last level so near data that the step from there, of Euler, adds no error."""
    u = np.append(np.linspace(1, 1e-4, steps), 0.0)
    return Edges(np.arange(steps), 1 - u, u)


@pytest.mark.parametrize(
    ("edges", "table", "order"),
    [
        (even_in_lambda, partial(ddim, eta=0.0), 1),
        (even_in_lambda, dpm_solver, 2),
        (even_in_lambda, heun, 2),
        (straight, partial(ddim, eta=0.0), 1),
        (straight, heun, 2),
    ],
)
def test_order_of_convergence(edges, table, order):
    """Twice as many steps halve the error, or quarter it: in float64, for data N(0.7, 0.25), whose
    denoiser and whose way from x_T to x_0 without noise are known."""
    mean, variance = 0.7, 0.25

    def error(steps):
        calls = table(edges(steps))
        signal, sigma = calls.signal, calls.sigma
        x = anchor = signal[0] * mean + 1.5 * np.sqrt(signal[0] ** 2 * variance + sigma[0] ** 2)
        before = 0.0
        for i in range(len(calls.time)):
            spread = signal[i] ** 2 * variance + sigma[i] ** 2
            x0 = mean + signal[i] * variance / spread * (x - signal[i] * mean)
            x = (
                calls.x0[i] * x0 + calls.before[i] * before + calls.xt[i] * x
                + calls.anchor[i] * anchor
            )  # fmt: skip
            anchor, before = (x if calls.keep[i] else anchor), x0
        return abs(x - (mean + 1.5 * np.sqrt(variance)))

    errors = np.array([error(steps) for steps in (64, 128, 256, 512)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.15)


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, STEPS // 10),
    name=st.sampled_from(["linear", "cosine", "const", "jsd", "flow", "edm"]),
    spacing=st.sampled_from(["uniform", "nonuniform"]),
)
def test_every_call_is_exact_where_x0_is_known(steps, name, spacing):
    """Whatever the table: x_0 the same at all calls gives the marginal's x at each call's level."""
    config = replace(CONFIG, schedule=name, spacing=spacing, sampler_steps=steps)
    for sampler in ("ddim", "dpm++", "heun"):
        table = table_of(replace(config, sampler=sampler))
        assert len(table.time) == (2 * steps - 1 if sampler == "heun" else steps)
        x0, eps = 0.4, -1.3
        x = anchor = table.signal[0] * x0 + table.sigma[0] * eps
        for i in range(len(table.time)):
            np.testing.assert_allclose(x, table.signal[i] * x0 + table.sigma[i] * eps, atol=1e-5)
            known = (table.x0[i] + table.before[i]) * x0
            x = known + table.xt[i] * x + table.anchor[i] * anchor
            anchor = x if table.keep[i] else anchor
        np.testing.assert_allclose(x, x0, atol=1e-5)


def test_heun_on_sigmas_is_the_algorithm_of_karras():
    """Algorithm 1 with its churn off, step by step, for data N(0.7, 0.25)."""
    mean, variance = 0.7, 0.25
    config = replace(CONFIG, **EDM, sampler="heun", sampler_steps=18)
    sigma = make_path(config).edges(18).sigma

    def slope(x, sigma):
        return (x - mean - variance / (variance + sigma**2) * (x - mean)) / sigma

    wanted = 1.5 * sigma[0]
    for here, there in pairwise(sigma):
        first = slope(wanted, here)
        guess = wanted + (there - here) * first
        mid = (first + slope(guess, there)) / 2 if there > 0 else first
        wanted = wanted + (there - here) * mid
    ours = reverse_diffusion(
        table_of(config), optimum(mean, variance, "edm"), jnp.full((1, 1), 1.5), KEY,
        kind="edm", clip=None,
    )  # fmt: skip
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_ancestral_steps_are_the_posterior():
    schedule = make_schedule(CONFIG)
    table = table_of(replace(CONFIG, sampler="ddpm", sampler_steps=STEPS))
    np.testing.assert_array_equal(table.time, np.arange(STEPS)[::-1])
    np.testing.assert_allclose(table.x0[::-1], schedule.posterior_x0, rtol=1e-5)
    np.testing.assert_allclose(table.xt[::-1], schedule.posterior_xt, rtol=1e-5)
    np.testing.assert_allclose(table.noise[::-1] ** 2, schedule.posterior_variance, rtol=1e-5)
    np.testing.assert_allclose(table.most[:-1] ** 2, schedule.beta[:0:-1], rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, STEPS),
    eta=st.floats(0, 1),
    name=st.sampled_from(["linear", "cosine", "jsd", "const", "flow", "edm"]),
    start=st.sampled_from([0.0, 1e-6, 1e-2]),
)
def test_every_step_keeps_the_marginal(steps, eta, name, start):
    """x_0 and noise of x_s are its signal and its sigma, whatever eta; the last step is x_0."""
    config = replace(
        CONFIG, schedule=name, beta_start=start, sampler="ddim", sampler_steps=steps, eta=eta
    )
    table, edges = table_of(config), make_path(config).edges(steps)
    assert (table.signal[0], table.sigma[0]) == (edges.signal[0], edges.sigma[0])
    assert np.all(np.diff(table.time) < 0)
    np.testing.assert_allclose(table.x0 + table.xt * table.signal, edges.signal[1:], atol=1e-9)
    spread = (table.xt * table.sigma) ** 2 + table.noise**2
    np.testing.assert_allclose(spread, edges.sigma[1:] ** 2, rtol=1e-9, atol=1e-9)
    assert (table.x0[-1], table.xt[-1], table.noise[-1]) == (1.0, 0.0, 0.0)


def test_ten_steps_of_fast_ddpm():
    """The times of its code, mirthAI/Fast-DDPM, runners/diffusion.py."""
    config = DiffusionConfig(steps=1000, draw="sampler", sampler_steps=10)
    uniform, other = (
        make_path(replace(config, spacing=spacing)) for spacing in ("uniform", "nonuniform")
    )
    assert uniform.edges(10).time.tolist() == list(range(999, 0, -100))
    theirs = [999, 949, 899, 849, 799, 699, 599, 399, 199, 0]
    assert other.edges(10).time.tolist() == theirs
    keys = jax.random.split(jax.random.key(0), 400)
    assert sorted(set(jax.vmap(other.draw)(keys).time.tolist())) == theirs[::-1]
