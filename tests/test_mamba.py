"""The Mamba block against its definition in float64."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from mstg_jax.models.mamba import Mamba

WIDTH, COUNT, LENGTH = 6, 3, 11
SETTINGS = {"d_state": 4, "d_conv": 3, "expand": 2}


@pytest.fixture(scope="module")
def blocks():
    return Mamba(WIDTH, count=COUNT, **SETTINGS, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def forward():
    return jax.jit(lambda model, tokens: model(tokens))


def tokens(seed=0):
    draw = np.random.default_rng(seed).standard_normal((2, LENGTH, COUNT * WIDTH))
    return draw.astype(np.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def definition(model, block, x):
    """One block of mamba-ssm on x (b l width)."""
    p = {
        name: np.float64(value[block])
        for name, value in nnx.to_pure_dict(nnx.state(model, nnx.Param)).items()
    }
    inner, n = p["A_log"].shape
    rank, taps = p["dt_proj"].shape[0], p["conv_kernel"].shape[0]
    x, z = np.split(np.float64(x) @ p["in_proj"], 2, axis=-1)
    u = np.zeros_like(x)
    for i in range(x.shape[1]):
        for k in range(taps):
            if i - k >= 0:
                u[:, i] += x[:, i - k] * p["conv_kernel"][taps - 1 - k]
    u = silu(u + p["conv_bias"])
    low, B, C = np.split(u @ p["x_proj"], (rank, rank + n), axis=-1)
    delta = np.logaddexp(0, low @ p["dt_proj"] + p["dt_bias"])
    state, y = np.zeros((len(x), inner, n)), np.zeros_like(u)
    for i in range(x.shape[1]):
        decay = np.exp(delta[:, i, :, None] * -np.exp(p["A_log"]))
        state = decay * state + (delta[:, i] * u[:, i])[..., None] * B[:, i, None]
        y[:, i] = (state * C[:, i, None]).sum(-1) + p["D"] * u[:, i]
    return y * silu(z) @ p["out_proj"]


def test_every_block_is_mamba_on_its_own_channels(blocks, forward):
    x = tokens()
    alone = [definition(blocks, i, part) for i, part in enumerate(np.split(x, COUNT, axis=-1))]
    got = forward(blocks, jnp.asarray(x))
    np.testing.assert_allclose(got, np.concatenate(alone, -1), rtol=1e-4, atol=1e-5)


def test_several_blocks_are_each_alone(blocks, forward):
    """Changing one block's tokens changes that block only."""
    x, other = tokens(), tokens()
    other[..., WIDTH : 2 * WIDTH] += 1
    a, b = (np.split(np.asarray(forward(blocks, jnp.asarray(v))), COUNT, -1) for v in (x, other))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[2], b[2])
    assert np.all(np.any(a[1] != b[1], axis=-1))


@pytest.mark.parametrize("t", [0, 4, LENGTH - 1])
def test_causal(blocks, forward, t):
    x, other = tokens(), tokens()
    other[:, t] += 1
    a, b = (np.asarray(forward(blocks, jnp.asarray(v))) for v in (x, other))
    np.testing.assert_array_equal(a[:, :t], b[:, :t])
    assert np.all(np.any(a[:, t:] != b[:, t:], axis=-1))


def test_initial_values():
    model = Mamba(32, count=2, d_state=5, d_conv=4, expand=2, rng=np.random.default_rng(0))
    dt = np.logaddexp(0, np.float64(model.dt_bias[...]))
    assert 1e-3 * (1 - 1e-4) <= dt.min() < 2e-3
    assert 5e-2 < dt.max() <= 1e-1 * (1 + 1e-4)
    np.testing.assert_allclose(
        np.exp(model.A_log[...]), np.broadcast_to(np.arange(1, 6), (2, 64, 5)), rtol=1e-6
    )
    assert np.all(np.asarray(model.D[...]) == 1)
    assert model.dt_proj.shape == (2, 2, 64)  # dt_rank = ceil(32 / 16)
    assert np.abs(model.dt_proj[...]).max() <= 2**-0.5
