"""Samplers on problems whose answer is known."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import (
    CONFIG,
    EDM,
    FLOW,
    KEY,
    LONG,
    OTHER_KEY,
    STEPS,
    normal,
    optimum,
    oracle,
    spread_of,
    table_of,
)

from mstg_jax.config import DiffusionConfig
from mstg_jax.diffusion.samplers import (
    reverse_diffusion,
)


@pytest.mark.parametrize(
    ("changes", "clip"),
    [
        ({"sampler": "ddpm", "sampler_steps": STEPS}, None),
        ({"sampler": "ddpm", "sampler_steps": 7, "prediction": "x0"}, (-1.0, 1.0)),
        ({"sampler": "ddim", "sampler_steps": STEPS, "prediction": "v"}, None),
        ({"sampler": "ddim", "sampler_steps": 7}, (-1.0, 1.0)),
        ({"sampler": "ddim", "sampler_steps": 1}, None),
        ({"sampler": "ddim", "eta": 0.5, "prediction": "v"}, (-1.0, 1.0)),
        ({"sampler": "ddim", "spacing": "nonuniform"}, None),
        ({"sampler": "dpm++"}, (-1.0, 1.0)),
        ({"sampler": "dpm++", "sampler_steps": 2, "prediction": "v"}, None),
        ({"sampler": "heun", "prediction": "v"}, (-1.0, 1.0)),
        ({"sampler": "heun", "sampler_steps": 1, "prediction": "x0"}, None),
        (FLOW | {"sampler": "ddim"}, None),
        (FLOW | {"sampler": "heun"}, None),
        (FLOW | {"sampler": "dpm++"}, None),
        (FLOW | {"sampler": "ddpm"}, None),
        (EDM | {"sampler": "heun"}, None),
        (EDM | {"sampler": "ddim", "sampler_steps": 1}, None),
        ({"schedule": "jsd", "prediction": "v", "sampler": "heun"}, None),
    ],
)
def test_a_perfect_predictor_returns_x0(changes, clip):
    config = replace(CONFIG, **changes)
    config.check()
    x0 = jnp.clip(0.5 * normal(0, 2, 8), -1, 1)
    predict = oracle(x0, config.prediction)
    noise, key = normal(1, *x0.shape), jax.random.key(2)
    out = reverse_diffusion(
        table_of(config), predict, noise, key, kind=config.prediction, clip=clip
    )
    np.testing.assert_allclose(out, x0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        # Ancestral steps with the posterior variance shrink the variance by 1.6 % at T = 1000.
        ({"sampler": "ddpm", "sampler_steps": 1000}, 0.04),
        ({"sampler_steps": 200}, 0.04),
        ({"sampler_steps": 1000, "eta": 0.5}, 0.04),
        ({"sampler": "dpm++", "sampler_steps": 40}, 0.03),
        ({"sampler": "heun", "sampler_steps": 60}, 0.03),
        ({"schedule": "cosine", "prediction": "v", "sampler": "dpm++", "sampler_steps": 25}, 0.03),
        (FLOW | {"sampler": "heun", "sampler_steps": 15}, 0.03),
        (FLOW | {"sampler": "ddim", "sampler_steps": 100}, 0.04),
        (EDM | {"sampler": "heun", "sampler_steps": 36}, 0.04),
    ],
)
def test_a_gaussian_is_sampled_with_its_mean_and_variance(changes, error):
    mean, variance = 0.7, 0.25
    config = replace(LONG, **changes)
    predict = optimum(mean, variance, config.prediction)
    noise, key = normal(3, 4, 10_000), jax.random.key(4)
    out = reverse_diffusion(
        table_of(config), predict, noise, key, kind=config.prediction, clip=None
    )
    np.testing.assert_allclose(out.mean(), mean, atol=0.01)
    np.testing.assert_allclose(out.var(), variance, rtol=error)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [4, 25])
def test_the_optimal_variance_is_exact_for_a_gaussian(sampler, steps):
    """Analytic-DPM: however few the steps, the last but one has the true variance; x_0 is the mean
    given that. The posterior's own variance, of which DDIM has none, leaves too little."""
    mean, variance = 0.7, 0.25
    config = replace(LONG, schedule="cosine", sampler=sampler, sampler_steps=steps)
    table = table_of(config)
    best = table_of(replace(config, variance="optimal"), spread_of(table, variance))
    signal, sigma = best.signal[-1], best.sigma[-1]
    wanted = (variance * signal) ** 2 / (signal**2 * variance + sigma**2)
    found = {}
    for name, used in {"posterior": table, "optimal": best}.items():
        out = reverse_diffusion(
            used, optimum(mean, variance, "eps"), normal(3, 4, 20_000), jax.random.key(4),
            kind="eps", clip=None,
        )  # fmt: skip
        np.testing.assert_allclose(out.mean(), mean, atol=0.01)
        found[name] = float(out.var())
    np.testing.assert_allclose(found["optimal"], wanted, rtol=0.02)
    assert abs(found["posterior"] - wanted) > abs(found["optimal"] - wanted)


@partial(jax.jit, static_argnames=("changes", "clip"))
def run(key, changes=(), clip=(-1.0, 1.0)):
    table = table_of(replace(CONFIG, **dict(changes)))
    noise = normal(5, 2, 8)
    return reverse_diffusion(table, optimum(0.0, 0.25, "eps"), noise, key, kind="eps", clip=clip)


DDPM, NOISY = (("sampler", "ddpm"),), (("eta", 0.5),)


def test_only_noisy_samplers_depend_on_the_key():
    np.testing.assert_array_equal(run(KEY), run(OTHER_KEY))
    for changes in (DDPM, NOISY):
        np.testing.assert_array_equal(run(KEY, changes), run(KEY, changes))
        assert np.abs(run(KEY, changes) - run(OTHER_KEY, changes)).max() > 1e-3


def test_raw_keys_and_typed_keys_draw_the_same():
    raw = run(jax.random.key_data(KEY), DDPM)
    np.testing.assert_array_equal(raw, run(KEY, DDPM))


def test_ddpm_with_fewer_steps_is_ddim_with_eta_one():
    np.testing.assert_array_equal(run(KEY, DDPM), run(KEY, (("eta", 1.0),)))


def test_clip_bounds_the_result():
    free, clipped = run(KEY, clip=None), run(KEY, clip=(-0.1, 0.1))
    assert np.abs(free).max() > 0.1
    assert np.abs(clipped).max() <= np.float32(0.1)


def test_a_learned_share_scales_the_noise_between_its_ends():
    """The logarithm of the noise lies that share between the posterior's and beta's."""
    table = table_of(replace(CONFIG, sampler="ddpm"))
    spread = {}
    for share in (0.0, 0.25, 1.0):

        def predict(x, level, share=share):
            return jnp.zeros_like(x), jnp.full_like(x, share)

        first = table._replace(x0=0 * table.x0, xt=0 * table.xt)
        first = type(table)(*(column[:1] for column in first))
        out = reverse_diffusion(
            first, predict, normal(0, 1, 50_000), jax.random.key(0), kind="x0", clip=None
        )
        spread[share] = float(out.std())
    np.testing.assert_allclose(spread[0.0], table.noise[0], rtol=0.01)
    np.testing.assert_allclose(spread[1.0], table.most[0], rtol=0.01)
    np.testing.assert_allclose(spread[0.25], spread[0.0] ** 0.75 * spread[1.0] ** 0.25, rtol=1e-4)


def test_eps_is_refused_where_it_says_nothing():
    """The jsd schedule ends at alpha_bar = 0, where v is -x_0."""
    config = DiffusionConfig(schedule="jsd", steps=20, sampler_steps=20)
    with pytest.raises(ValueError, match="ends without any signal"):
        config.check()
    with pytest.raises(ValueError, match="begins without any signal"):
        reverse_diffusion(
            table_of(config), oracle(0.0, "eps"), normal(0, 2, 8), KEY, kind="eps"
        )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampler_steps": 0}, r"0 sampler steps; the schedule allows 1\.\.100"),
        ({"sampler_steps": 101}, r"101 sampler steps"),
        ({"eta": 1.5}, r"eta is 1\.5"),
        ({"sampler": "ddpm", "eta": 0.5}, r"only ddim takes eta"),
        ({"sampler": "heun", "eta": 0.5}, r"only ddim takes eta"),
        ({"variance": "optimal"}, r"needs the variances of x_0"),
        ({"spacing": "nonuniform", "sampler_steps": 60}, r"60 different steps"),
    ],
)
def test_bad_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        table_of(replace(CONFIG, **wrong))
