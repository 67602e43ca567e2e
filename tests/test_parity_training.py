"""Diffusion, losses, training and inference beside the PyTorch reference."""

from dataclasses import replace

import jax
import numpy as np
import parity
import pytest
import trajectory
from jax import numpy as jnp
from parity import assert_close, each, first, images, in_type, make_pair, relative, torch
from torch_reference import diffusion as reference

from mstg_jax.config import DiffusionConfig
from mstg_jax.diffusion.losses import local_ncc, smoothness
from mstg_jax.diffusion.process import q_sample
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Ends

both = pytest.mark.parametrize("dtype", parity.DTYPES)
SCHEDULES = ("linear", "cosine", "quad", "warmup10", "warmup50", "const")
BUFFERS = {
    "beta": "betas",
    "alpha_bar": "alphas_cumprod",
    "sqrt_alpha_bar": "sqrt_alphas_cumprod",
    "sqrt_one_minus_alpha_bar": "sqrt_one_minus_alphas_cumprod",
    "posterior_x0": "posterior_mean_coef1",
    "posterior_xt": "posterior_mean_coef2",
    "posterior_variance": "posterior_variance",
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    config = DiffusionConfig(schedule=name)
    ours = make_schedule(config)
    theirs = reference.buffers(name, config.steps, config.beta_start, config.beta_end)
    for own, buffer in BUFFERS.items():
        assert relative(getattr(ours, own), theirs[buffer], what="buffer") < 1e-7, own


@both
def test_losses(dtype):
    pair = make_pair("ddm-tiny", "float32")
    x, y = images(pair.config, 2, dtype)
    flow = np.random.default_rng(7).standard_normal((*x.shape[:-1], 3)).astype(dtype)
    with in_type(dtype):
        ncc, smooth = local_ncc(jnp.asarray(x), jnp.asarray(y)), smoothness(jnp.asarray(flow))
    wanted = reference.local_ncc(first(x), first(y)), reference.smoothness(first(flow))
    assert each((ncc, smooth), wanted, "loss") < 1e-6


@both
@pytest.mark.parametrize("preset", ["ddm-tiny", "acdc-small-tiny"])
def test_twenty_steps_of_adam(preset, dtype):
    """Same weights, noise and steps; the loss at every step."""
    steps, rate = 20, 1e-3
    with in_type(dtype):
        pair = make_pair(preset, dtype)
        ed, es = images(pair.config, 2, dtype)
        batch = {"ed": jnp.asarray(ed), "es": jnp.asarray(es)}
        ours = trajectory.in_jax(
            pair.method, pair.config, pair.graph, pair.params, batch, steps=steps, rate=rate
        ).losses
        theirs = trajectory.in_torch(
            pair.reference, pair.config, ed, es, steps=steps, rate=rate
        ).losses
    assert np.ptp(theirs) > 1e-2 * abs(theirs[0])  # it has learned something
    assert each(ours, theirs, "loss") < {"float32": 1e-4, "float64": 1e-9}[dtype]


@both
@pytest.mark.parametrize("preset", ["ddm-tiny", "acdc-small-tiny"])
def test_ten_frames(preset, dtype):
    with in_type(dtype):
        pair = make_pair(preset, dtype)
        ed, es = images(pair.config, 2, dtype)
        gammas = np.linspace(0, 1, 10, dtype=dtype)[None]
        ends = Ends(ed, es, jnp.ones((len(ed), 2), dtype), jnp.stack([0 * ed] * 2, 1))
        ours = jax.jit(lambda params, *x: pair.method.generate(pair.model(params), *x))(
            pair.params, ends, gammas, jax.random.key(0)
        )
    theirs = reference.generate(
        pair.reference, *(2 * first(x) - 1 for x in (ed, es)), torch.tensor(gammas)
    )
    assert_close(ours.frames, np.moveaxis(theirs.frames.numpy(), 2, -1), dtype, what="frames")
    assert_close(ours.flow, np.moveaxis(theirs.flow.numpy(), 2, -1), dtype, what="flow")


def test_noising():
    config = DiffusionConfig()
    pair = make_pair("ddm-tiny", "float32")
    x0, noise = images(pair.config, 2, "float32", batch=3)
    t = np.array([0, 24, 49])
    config = replace(pair.config.diffusion)
    ours = q_sample(make_schedule(config).at(jnp.asarray(t)), jnp.asarray(x0), jnp.asarray(noise))
    theirs = reference.q_sample(pair.reference, first(x0), torch.tensor(t), first(noise))
    assert relative(ours, np.moveaxis(theirs.numpy(), 1, -1)) < 1e-6
