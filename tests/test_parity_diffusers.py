"""Reverse steps beside the schedulers of the diffusers library, with the same schedule."""

from dataclasses import replace

import jax
import numpy as np
import parity
import pytest
from jax import numpy as jnp

from mstg_jax.config import DiffusionConfig
from mstg_jax.diffusion.paths import make_path
from mstg_jax.diffusion.process import to_x0_eps
from mstg_jax.diffusion.samplers import reverse_diffusion, transitions
from mstg_jax.diffusion.schedule import betas, make_schedule

torch = parity.torch
diffusers = pytest.importorskip("diffusers", reason="pip install diffusers to compare with it")
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
# Not smaller betas: diffusers takes 1 - alpha_bar in float32, at 1e-4 with an error of 1e-5.
CONFIG = DiffusionConfig(steps=40, beta_start=5e-3, beta_end=0.1)
SHAPE = (2, 4, 6)


def scheduler(cls, config, kind, **options):
    return cls(
        num_train_timesteps=config.steps, trained_betas=betas(config), clip_sample=True,
        prediction_type=KINDS[kind], **options,
    )  # fmt: skip


def predict(x, t):
    """Any smooth function will do."""
    return np.sin(3 * x + 0.1 * t) / 2


def sampled(config, start, clip=(-1.0, 1.0)):
    def ours(x, level):
        return jnp.sin(3 * x + 0.1 * level.time.astype(x.dtype)[:, None, None]) / 2, None

    table = transitions(make_path(config).edges(config.sampler_steps), config)
    start, key = jnp.asarray(start), jax.random.key(0)
    return reverse_diffusion(table, ours, start, key, kind=config.prediction, clip=clip)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [40, 8])
def test_ddim(kind, steps, name):
    """Deterministic. Ours is diffusers' "trailing" spacing, and the clipped x_0's own eps."""
    config = replace(CONFIG, schedule=name)
    start = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    ours = sampled(replace(config, sampler="ddim", sampler_steps=steps, prediction=kind), start)
    theirs = scheduler(
        diffusers.DDIMScheduler, config, kind, timestep_spacing="trailing", set_alpha_to_one=True
    )
    theirs.set_timesteps(steps)
    x = torch.tensor(start)
    for t in theirs.timesteps:
        predicted = torch.tensor(predict(x.numpy(), float(t)).astype(np.float32))
        x = theirs.step(predicted, int(t), x, use_clipped_model_output=True).prev_sample
    assert parity.relative(ours, x.numpy()) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_ddpm(kind):
    """Every step of the posterior, with the noise that diffusers draws."""
    schedule = make_schedule(CONFIG)
    theirs = scheduler(diffusers.DDPMScheduler, CONFIG, kind, variance_type="fixed_small")
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for t in reversed(range(CONFIG.steps)):
        predicted = predict(x, t).astype(np.float32)
        wanted = theirs.step(
            torch.tensor(predicted), t, torch.tensor(x), generator=torch.Generator().manual_seed(t)
        ).prev_sample.numpy()
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(t)).numpy()
        level = schedule.at(jnp.full(SHAPE[:1], t))
        x0, _ = to_x0_eps(level, jnp.asarray(predicted), jnp.asarray(x), kind)
        mean = schedule.posterior_x0[t] * jnp.clip(x0, -1, 1) + schedule.posterior_xt[t] * x
        got = mean + (jnp.exp(schedule.posterior_log_variance[t] / 2) * noise if t > 0 else 0.0)
        assert parity.relative(got, wanted) < 1e-5, t
        x = wanted


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # theirs, of torch's tensors
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_dpm_solver(kind, name):
    """DPM-Solver++ 2M, which diffusers does not clip."""
    config = replace(CONFIG, schedule=name)
    start = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    wanted = replace(config, sampler="dpm++", sampler_steps=8, prediction=kind)
    ours = sampled(wanted, start, clip=None)
    theirs = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=config.steps, trained_betas=betas(config), prediction_type=KINDS[kind],
        timestep_spacing="trailing", final_sigmas_type="zero", lower_order_final=True,
    )  # fmt: skip
    theirs.set_timesteps(8)
    x = torch.tensor(start)
    for t in theirs.timesteps:
        predicted = torch.tensor(predict(x.numpy(), float(t)).astype(np.float32))
        x = theirs.step(predicted, int(t), x).prev_sample
    assert parity.relative(ours, x.numpy()) < 2e-5
