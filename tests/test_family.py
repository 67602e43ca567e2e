"""The objectives of the diffusion family, where the best denoiser and its loss are known.

Data are N(MEAN, VARIANCE) voxel by voxel, so E[x_0 | x_t] is linear in x_t.
"""

import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from mstg_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig, OptimConfig
from mstg_jax.diffusion import importance
from mstg_jax.diffusion.draws import level_and_noise
from mstg_jax.diffusion.hybrid import variational
from mstg_jax.diffusion.learned import learned_level, learned_table
from mstg_jax.diffusion.likelihood import bound, log_likelihood, quantised
from mstg_jax.diffusion.paths import Karras, make_path
from mstg_jax.diffusion.process import q_sample, target
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Ends
from mstg_jax.methods.direct import Direct
from mstg_jax.models.log_snr import LogSNR
from mstg_jax.training.checkpoint import Checkpoints
from mstg_jax.training.sharding import batch_shapes, make_mesh
from mstg_jax.training.state import init_state, make_optimiser
from mstg_jax.training.step import make_train_step

MEAN, VARIANCE = 0.1, 0.04
BASE = DiffusionConfig(beta_start=1e-4, beta_end=0.1, steps=100, frames=1)
FAMILY = {
    "ddpm": {},
    "cosine, v": {"schedule": "cosine", "prediction": "v"},
    "x0": {"prediction": "x0"},
    "fast": {"draw": "sampler", "sampler_steps": 10, "spacing": "nonuniform"},
    "flow": {"schedule": "flow", "prediction": "velocity"},
    "edm": {"schedule": "edm", "prediction": "edm"},
}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def best_x0(x_t, signal, sigma):
    spread = signal**2 * VARIANCE + sigma**2
    return MEAN + signal * VARIANCE / spread * (x_t - signal * MEAN)


@pytest.mark.parametrize("name", FAMILY)
def test_the_best_denoiser_is_where_the_loss_is_flat(name, monkeypatch):
    """Its prediction, scaled or shifted, has a slope of 0 within what 200,000 draws leave."""
    config = replace(BASE, **FAMILY[name])
    method, count = Direct(ModelConfig(), config), 2000
    frames = (1 + MEAN + math.sqrt(VARIANCE) * normal(0, count, 1, 1, 10, 10, 1)) / 2
    ends = jnp.zeros((count, 1, 10, 10, 1))
    batch = {"frames": frames, "ed": ends, "es": ends, "gammas": jnp.zeros((count, 1))}

    def slopes(change):
        def predict(self, model, x_t, known, level):
            signal, sigma = level.beside(x_t)
            x0 = best_x0(x_t, signal, sigma)
            best = target(level, x0, (x_t - signal * x0) / sigma, config.prediction)
            return change[0] * best + change[1], None

        monkeypatch.setattr(Direct, "predict", predict)
        return method.loss(None, batch, keys(count))[0]

    loss, slope = jax.value_and_grad(slopes)(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(slope / loss, 0.0, atol=0.05)
    for change in ([0.9, 0.0], [1.1, 0.0], [1.0, 0.2], [1.0, -0.2]):
        assert slopes(jnp.array(change)) > loss


def test_levels_that_training_draws():
    """Rectified flow draws evenly between data and noise, EDM log sigma from N(-1.2, 1.2^2)."""
    flow, _ = level_and_noise(keys(4000), (1,), make_path(replace(BASE, schedule="flow")).draw)
    np.testing.assert_allclose(flow.signal + flow.sigma, 1, rtol=1e-6)
    np.testing.assert_allclose(np.histogram(flow.sigma, 4, (0, 1))[0] / 1000, 1, atol=0.1)
    np.testing.assert_allclose(flow.time, 100 * flow.sigma, rtol=1e-6)
    edm, _ = level_and_noise(keys(4000), (1,), Karras(100).draw)
    log_sigma = np.log(edm.sigma)
    np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.2], atol=0.06)
    assert np.all(edm.signal == 1)


def step_bits(share, t, count=400):
    """L_t of Improved DDPM with the best mean, and that share of the logarithm of the variance."""
    schedule = make_schedule(BASE)
    x0 = MEAN + math.sqrt(VARIANCE) * normal(1, count, 500)
    level = schedule.at(jnp.full(count, t))
    x_t = q_sample(level, x0, normal(2, count, 500))
    best = best_x0(x_t, *level.beside(x_t))
    return variational(schedule, level.time, x0, best, jnp.full_like(x0, share)).mean()


@pytest.mark.parametrize("t", [3, 20, 60])
def test_the_hybrid_loss_is_least_at_the_true_variance(t):
    """And is there log(true variance / the posterior's) / 2, which closed form gives."""
    schedule = make_schedule(BASE)
    signal, sigma = schedule.sqrt_alpha_bar[t], schedule.sqrt_one_minus_alpha_bar[t]
    unknown = VARIANCE * sigma**2 / (signal**2 * VARIANCE + sigma**2)
    least, most = schedule.posterior_variance[t], schedule.beta[t]
    true = least + schedule.posterior_x0[t] ** 2 * unknown
    share = jnp.log(true / least) / jnp.log(most / least)
    assert 0 < share < 1
    loss, slope = jax.value_and_grad(partial(step_bits, t=t))(share)
    np.testing.assert_allclose(loss, jnp.log(true / least) / 2 / math.log(2), rtol=0.02)
    np.testing.assert_allclose(slope, 0, atol=0.01 * float(jnp.log(most / least)))
    for other in (share - 0.2, share + 0.2):
        assert step_bits(other, t) > loss


def test_the_first_step_counts_the_likelihood_of_data():
    schedule = make_schedule(BASE)
    x0, t = quantised(0.2 * normal(0, 3, 50)), jnp.zeros(3, jnp.int32)
    found = variational(schedule, t, x0, x0 + 0.01, jnp.zeros_like(x0))
    # As in the paper's code the first step has the second's posterior variance.
    log_deviation = jnp.full_like(x0, schedule.posterior_log_variance[1] / 2)
    wanted = -log_likelihood(x0, x0 + 0.01, log_deviation).mean(1) / math.log(2)
    np.testing.assert_allclose(found.mean(1), wanted, rtol=1e-5)


@pytest.mark.parametrize("mean", [-1.0, -0.3, 0.0, 1.0])
@pytest.mark.parametrize("deviation", [1e-3, 0.05, 0.7])
def test_the_likelihoods_of_all_256_values_add_up_to_one(mean, deviation):
    values = jnp.linspace(-1, 1, 256)
    logs = log_likelihood(values, jnp.full(256, mean), jnp.full(256, math.log(deviation)))
    np.testing.assert_allclose(jnp.exp(logs).sum(), 1.0, atol=1e-4)


def learned(ends=(9.0, -9.0)):
    return LogSNR(ends, rng=np.random.default_rng(0))


def test_learned_noise_rises_from_data_to_noise():
    noise = learned()
    gamma = noise(jnp.linspace(0, 1, 200))
    assert np.all(np.diff(gamma) > 0)
    np.testing.assert_allclose(gamma[jnp.array([0, -1])], [-9, 9], rtol=1e-6)
    graph, params = nnx.split(noise)
    slopes = jax.grad(lambda p: nnx.merge(graph, p)(jnp.array(0.3)))(params)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(slopes))


def test_the_bound_of_vdm_is_the_entropy_where_the_denoiser_is_exact():
    """In continuous time nothing is lost: for N(MEAN, VARIANCE) to 256 values, 4.36 bits."""
    noise, count = learned(), 4000
    x0 = quantised(MEAN + math.sqrt(VARIANCE) * normal(3, count, 64))

    def best(x_t, level):
        signal, sigma = level.beside(x_t)
        return (x_t - signal * best_x0(x_t, signal, sigma)) / sigma

    found = bound(noise, partial(learned_level, config=BASE), best, x0, keys(count))
    entropy = 0.5 * math.log2(2 * math.pi * math.e * VARIANCE) - math.log2(2 / 255)
    np.testing.assert_allclose(sum(x.mean() for x in found), entropy, rtol=0.02)
    assert 0 < found.prior.mean() < 1e-3


def test_samples_of_a_learned_schedule():
    """The table is made of the weights: DPM-Solver++ with an exact denoiser gives the Gaussian."""
    from mstg_jax.diffusion.samplers import reverse_diffusion

    noise = learned()
    config = replace(BASE, log_snr=(9.0, -9.0), sampler="dpm++", sampler_steps=60, prediction="v")

    def best(x_t, level):
        signal, sigma = level.beside(x_t)
        x0 = best_x0(x_t, signal, sigma)
        return target(level, x0, (x_t - signal * x0) / sigma, "v"), None

    @jax.jit
    def draw(start):
        table = learned_table(noise, config, None)
        return reverse_diffusion(table, best, start, jax.random.key(0), kind="v", clip=None)

    out = draw(normal(4, 4, 5000))
    np.testing.assert_allclose(out.mean(), MEAN, atol=0.01)
    np.testing.assert_allclose(out.var(), VARIANCE, rtol=0.04)


MODEL = ModelConfig(channels=(4, 8), mixer_stages=(1,), d_state=4, time_dim=4)
WHOLE = {
    "improved": {"schedule": "cosine", "variance": "learned", "sampler": "ddpm"},
    "vdm": {"schedule": "learned", "fourier": (6, 7)},
    "edm": FAMILY["edm"] | {"sampler": "heun"},
    "flow": FAMILY["flow"],
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_member_trains_and_samples(name):
    """Every channel of its prediction has a gradient, and frames come out, by the seed."""
    config = replace(BASE, frames=2, sampler_steps=3, **WHOLE[name])
    config.check()
    method = Direct(MODEL, config)
    graph, params = nnx.split(method.build(np.random.default_rng(0)), nnx.Param)
    ends = jax.random.uniform(jax.random.key(0), (2, 1, 4, 8, 8, 1))
    gammas = jnp.array([[0.3, 0.6]])
    batch = {"frames": ends.swapaxes(0, 1), "ed": ends[0], "es": ends[1], "gammas": gammas}

    @jax.jit
    def slopes(params, key):
        return jax.value_and_grad(
            lambda p: method.loss(nnx.merge(graph, p), batch, key), has_aux=True
        )(params)

    (loss, parts), found = slopes(params, keys(1))
    assert all(np.isfinite(x) for x in (loss, *parts.values()))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert np.all(np.abs(found["out"]["kernel"][...]).max((0, 1, 2, 3)) > 0)
    if name == "vdm":
        assert np.abs(found["log_snr"]["ends"][...]).max() > 0
    known = Ends(ends[0], ends[1], jnp.ones((1, 2)), jnp.zeros((1, 2, 4, 8, 8, 1)))
    draw = jax.jit(lambda p, key: method.generate(nnx.merge(graph, p), known, gammas, key).frames)
    one, other = (draw(params, jax.random.key(seed)) for seed in (0, 1))
    assert one.shape == (1, 2, 4, 8, 8, 1)
    assert np.isfinite(one).all()
    assert np.abs(one - other).max() > 1e-3


def test_spans_of_large_losses_are_drawn_more_often_and_count_less():
    """Once every span was met ten times; the weighted loss stays the mean over all steps."""
    losses = importance.nothing_seen()
    assert np.all(importance.shares(losses) == 1 / importance.BINS)
    true = jnp.linspace(0.1, 2.0, importance.BINS)
    for _ in range(importance.VISITS):
        new = importance.Losses(true**2 / importance.BINS, jnp.full(importance.BINS, 0.02))
        losses = importance.remembered(losses, new)
    share = importance.shares(losses)
    np.testing.assert_allclose(share, true / true.sum(), rtol=0.05)
    t, span = jax.vmap(lambda key: importance.draw(key, 100, share))(keys(20_000))
    np.testing.assert_array_equal(t // 2, span)
    assert (t.min(), t.max()) == (0, 99)
    weighted = true[span] / (importance.BINS * share[span])
    np.testing.assert_allclose(weighted.mean(), true.mean(), rtol=0.01)
    assert weighted.std() < 0.1 * true.std()


def test_spans_that_a_step_did_not_meet_keep_what_they_had():
    seen = importance.seen(jnp.array([3, 3, 7]), jnp.array([1.0, 3.0, 2.0]))
    losses = importance.remembered(importance.nothing_seen(), seen)
    assert losses.visits.sum() == 2
    np.testing.assert_allclose(losses.squares[jnp.array([3, 7])], [5.0, 4.0], rtol=1e-6)
    again = importance.remembered(losses, importance.seen(jnp.array([7]), jnp.array([0.0])))
    np.testing.assert_allclose(again.squares[jnp.array([3, 7])], [5.0, 2.0], rtol=1e-6)


def test_training_remembers_its_losses_and_keeps_them_in_checkpoints(tmp_path):
    config = replace(BASE, variance="learned", draw="importance")
    method = Direct(MODEL, config)
    optim, mesh = OptimConfig(), make_mesh(Config(), jax.devices()[:1])
    structure, state = init_state(method, make_optimiser(optim, 2), seed=0)
    step = make_train_step(method, structure, optim, mesh)
    ends = jax.random.uniform(jax.random.key(0), (2, 1, 4, 8, 8, 1))
    batch = {"frames": ends[:1], "ed": ends[0], "es": ends[1], "gammas": jnp.array([[0.3]])}
    blank = {
        name: jnp.zeros(shape.shape, shape.dtype)
        for name, shape in batch_shapes(Config(data=DataConfig(size=(4, 8, 8))), 1, mesh).items()
    }
    for _ in range(2):
        state, metrics = step(state, blank | batch, jax.random.key(0), 2)
    assert "seen" not in metrics
    assert state.opt_state[1].visits.sum() == 2
    with Checkpoints(tmp_path, structure) as checkpoints:
        checkpoints.save(state, Config())
    with Checkpoints(tmp_path, structure, write=False) as checkpoints:
        back = checkpoints.restore()
    np.testing.assert_array_equal(back.opt_state[1].squares, state.opt_state[1].squares)
