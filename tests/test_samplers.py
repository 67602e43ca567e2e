"""DDPM and DDIM on problems whose answer is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstg_jax.config import DiffusionConfig, Sampler
from mstg_jax.diffusion.process import target
from mstg_jax.diffusion.samplers import (
    Edges,
    ddim,
    dpm_solver,
    heun,
    reverse_diffusion,
    transitions,
)
from mstg_jax.diffusion.schedule import make_schedule

STEPS = 100
SCHEDULE = make_schedule(DiffusionConfig(beta_start=1e-4, beta_end=0.1, steps=STEPS))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def gather(values, t, x):
    return values[t].reshape((-1,) + (1,) * (x.ndim - 1))


def oracle(x0, kind, schedule=SCHEDULE):
    """Predicts what `kind` asks for as if every x_t came from x0."""

    def predict(x_t, t):
        signal = gather(schedule.sqrt_alpha_bar, t, x_t)
        eps = (x_t - signal * x0) / gather(schedule.sqrt_one_minus_alpha_bar, t, x_t)
        return target(schedule, x0, eps, t, kind)

    return predict


@pytest.mark.parametrize(
    ("sampler", "steps", "eta", "kind", "clip"),
    [
        ("ddpm", STEPS, 0.0, "eps", None),
        ("ddpm", 7, 0.0, "x0", (-1.0, 1.0)),
        ("ddim", STEPS, 0.0, "v", None),
        ("ddim", 7, 0.0, "eps", (-1.0, 1.0)),
        ("ddim", 1, 0.0, "eps", None),
        ("ddim", 10, 0.5, "v", (-1.0, 1.0)),
        ("dpm++", 10, 0.0, "eps", (-1.0, 1.0)),
        ("dpm++", 2, 0.0, "v", None),
        ("heun", 10, 0.0, "v", (-1.0, 1.0)),
        ("heun", 1, 0.0, "x0", None),
    ],
)
def test_a_perfect_predictor_returns_x0(sampler, steps, eta, kind, clip):
    x0 = jnp.clip(0.5 * normal(0, 2, 8), -1, 1)
    out = reverse_diffusion(
        SCHEDULE,
        oracle(x0, kind),
        normal(1, *x0.shape),
        jax.random.key(2),
        kind=kind,
        sampler=sampler,
        steps=steps,
        eta=eta,
        clip=clip,
    )
    np.testing.assert_allclose(out, x0, atol=1e-5)


def optimal_eps(mean, variance, schedule=SCHEDULE):
    """E[eps | x_t] for data N(mean, variance): the minimiser of the eps loss."""

    def predict(x_t, t):
        signal = gather(schedule.sqrt_alpha_bar, t, x_t)
        sigma = gather(schedule.sqrt_one_minus_alpha_bar, t, x_t)
        return sigma * (x_t - signal * mean) / (signal**2 * variance + sigma**2)

    return predict


@pytest.mark.parametrize(
    ("sampler", "steps", "eta"), [("ddpm", 1000, 0.0), ("ddim", 200, 0.0), ("ddim", 1000, 0.5)]
)
def test_a_gaussian_is_sampled_with_its_mean_and_variance(sampler, steps, eta):
    """Ancestral steps with the posterior variance shrink the variance by 1.6 % at T = 1000."""
    mean, variance = 0.7, 0.25
    schedule = make_schedule(DiffusionConfig(beta_start=1e-4, beta_end=2e-2, steps=1000))
    out = reverse_diffusion(
        schedule,
        optimal_eps(mean, variance, schedule),
        normal(3, 4, 10_000),
        jax.random.key(4),
        kind="eps",
        sampler=sampler,
        steps=steps,
        eta=eta,
        clip=None,
    )
    np.testing.assert_allclose(out.mean(), mean, atol=0.01)
    np.testing.assert_allclose(out.var(), variance, rtol=0.04)


def even_in_lambda(steps: int) -> Edges:
    """Of log(signal / sigma) from -2 to 9, and from there to clean data."""
    log_bar = -np.log1p(np.exp(-2 * np.linspace(-2, 9, steps)))
    return Edges(np.arange(steps, dtype=np.int32), log_bar, np.append(log_bar[1:], 0.0))


@pytest.mark.parametrize(
    ("table", "order"), [(partial(ddim, eta=0.0), 1), (dpm_solver, 2), (heun, 2)]
)
def test_order_of_convergence(table, order):
    """Twice as many steps halve the error, or quarter it: in float64, for data N(0.7, 0.25), whose
    denoiser and whose way from x_T to x_0 without noise are known."""
    mean, variance = 0.7, 0.25

    def error(steps):
        edges = even_in_lambda(steps)
        calls = table(edges)
        signal, sigma = np.exp(edges.log_t / 2), np.sqrt(-np.expm1(edges.log_t))
        x = anchor = signal[0] * mean + 1.5 * np.sqrt(signal[0] ** 2 * variance + sigma[0] ** 2)
        before = 0.0
        for i, t in enumerate(calls.t):
            spread = signal[t] ** 2 * variance + sigma[t] ** 2
            x0 = mean + signal[t] * variance / spread * (x - signal[t] * mean)
            x = (
                calls.x0[i] * x0 + calls.before[i] * before + calls.xt[i] * x
                + calls.anchor[i] * anchor
            )  # fmt: skip
            anchor, before = (x if calls.keep[i] else anchor), x0
        return abs(x - (mean + 1.5 * np.sqrt(variance)))

    errors = np.array([error(steps) for steps in (64, 128, 256, 512)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.15)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, STEPS), name=st.sampled_from(["linear", "cosine", "const"]))
def test_every_call_is_exact_where_x0_is_known(steps, name):
    """Whatever the table: x_0 the same at all calls gives the marginal's x at each step."""
    schedule = make_schedule(DiffusionConfig(schedule=name, beta_end=0.1, steps=STEPS))
    log_bar = np.append(np.log(np.asarray(schedule.alpha_bar, np.float64)), 0.0)
    for sampler in ("dpm++", "heun"):
        table = transitions(schedule, sampler, steps)
        assert len(table.t) == (steps if sampler == "dpm++" else 2 * steps - 1)
        x0, eps = 0.4, -1.3
        signal, sigma = (np.exp(log_bar / 2), np.sqrt(-np.expm1(log_bar)))
        x = anchor = signal[table.t[0]] * x0 + sigma[table.t[0]] * eps
        for i, t in enumerate(table.t):
            np.testing.assert_allclose(x, signal[t] * x0 + sigma[t] * eps, atol=1e-5)
            known = (table.x0[i] + table.before[i]) * x0
            x = known + table.xt[i] * x + table.anchor[i] * anchor
            anchor = x if table.keep[i] else anchor
        np.testing.assert_allclose(x, x0, atol=1e-5)


def test_ancestral_steps_are_the_posterior():
    table = transitions(SCHEDULE, "ddpm", STEPS)
    np.testing.assert_array_equal(table.t, np.arange(STEPS)[::-1])
    np.testing.assert_allclose(table.x0[::-1], SCHEDULE.posterior_x0, rtol=1e-5)
    np.testing.assert_allclose(table.xt[::-1], SCHEDULE.posterior_xt, rtol=1e-5)
    np.testing.assert_allclose(table.noise[::-1] ** 2, SCHEDULE.posterior_variance, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, STEPS),
    eta=st.floats(0, 1),
    name=st.sampled_from(["linear", "cosine", "jsd", "const"]),
    start=st.sampled_from([0.0, 1e-6, 1e-2]),
)
def test_every_step_keeps_the_marginal(steps, eta, name, start):
    """x_0 and noise of x_s: sqrt(ab_s) and 1 - ab_s, whatever eta; the last step is x_0 itself."""
    config = DiffusionConfig(schedule=name, beta_start=start, beta_end=0.1, steps=STEPS)
    schedule = make_schedule(config)
    table = transitions(schedule, "ddim", steps, eta)
    assert table.t[0] == STEPS - 1
    assert table.t.min() >= 0
    assert np.all(np.diff(table.t) < 0)
    signal = np.asarray(schedule.sqrt_alpha_bar, np.float64)
    sigma = np.asarray(schedule.sqrt_one_minus_alpha_bar, np.float64)
    after = np.append(table.t[1:], -1)
    signal_s, sigma_s = np.append(signal, 1.0)[after], np.append(sigma, 0.0)[after]
    np.testing.assert_allclose(table.x0 + table.xt * signal[table.t], signal_s, atol=1e-6)
    spread = (table.xt * sigma[table.t]) ** 2 + table.noise**2
    np.testing.assert_allclose(spread, sigma_s**2, atol=1e-6)
    assert (table.x0[-1], table.xt[-1], table.noise[-1]) == (1.0, 0.0, 0.0)


@partial(jax.jit, static_argnames=("sampler", "steps", "eta", "clip"))
def run(key, sampler: Sampler = "ddim", steps=10, eta=0.0, clip=(-1.0, 1.0)):
    return reverse_diffusion(
        SCHEDULE,
        optimal_eps(0.0, 0.25),
        normal(5, 2, 8),
        key,
        kind="eps",
        sampler=sampler,
        steps=steps,
        eta=eta,
        clip=clip,
    )


KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)


def test_only_noisy_samplers_depend_on_the_key():
    np.testing.assert_array_equal(run(KEY), run(OTHER_KEY))
    for options in ({"sampler": "ddpm"}, {"eta": 0.5}):
        np.testing.assert_array_equal(run(KEY, **options), run(KEY, **options))
        assert np.abs(run(KEY, **options) - run(OTHER_KEY, **options)).max() > 1e-3


def test_raw_keys_and_typed_keys_draw_the_same():
    raw = run(jax.random.key_data(KEY), sampler="ddpm")
    np.testing.assert_array_equal(raw, run(KEY, sampler="ddpm"))


def test_ddpm_with_fewer_steps_is_ddim_with_eta_one():
    np.testing.assert_array_equal(run(KEY, sampler="ddpm"), run(KEY, eta=1.0))


def test_clip_bounds_the_result():
    free, clipped = run(KEY, clip=None), run(KEY, clip=(-0.1, 0.1))
    assert np.abs(free).max() > 0.1
    assert np.abs(clipped).max() <= np.float32(0.1)


def test_v_prediction_starts_from_pure_noise():
    """The jsd schedule ends at alpha_bar = 0, where v is -x_0 and eps is of no use."""
    schedule = make_schedule(DiffusionConfig(schedule="jsd", steps=20))
    x0, start = 0.3 * jnp.ones((2, 6)), normal(6, 2, 6)
    key = jax.random.key(0)
    out = reverse_diffusion(
        schedule, oracle(x0, "v", schedule), start, key, kind="v", sampler="ddpm", steps=20
    )
    np.testing.assert_allclose(out, x0, atol=1e-5)
    with pytest.raises(ValueError, match="alpha_bar ends at 0"):
        reverse_diffusion(
            schedule, oracle(x0, "eps"), start, key, kind="eps", sampler="ddpm", steps=20
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, r"0 sampler steps; the schedule allows 1\.\.100"),
        ({"steps": 101}, r"101 sampler steps"),
        ({"eta": 1.5}, r"eta is 1\.5"),
        ({"sampler": "ddpm", "eta": 0.5}, r"only ddim takes eta"),
        ({"sampler": "heun", "eta": 0.5}, r"only ddim takes eta"),
    ],
)
def test_bad_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        run(KEY, **wrong)
