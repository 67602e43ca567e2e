"""Layers against numpy and closed forms."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mstg_jax.config import SettingsError
from mstg_jax.models import layers


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rng():
    return np.random.default_rng(7)


def group_norm(x, groups):
    """x (b ... c), in float64."""
    grouped = np.float64(x).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = grouped.var((1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize("shape", [(2, 1, 2, 3, 4, 8), (3, 5, 12), (2, 2, 3, 4, 4)])
def test_group_norm(shape):
    x, norm = 3 + 2 * normal(0, *shape), layers.GroupNorm(shape[-1], 4)
    scale, bias = normal(1, shape[-1]), normal(2, shape[-1])
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    y = norm(jnp.asarray(x))
    np.testing.assert_allclose(y, group_norm(x, 4) * scale + bias, rtol=1e-4, atol=1e-5)


def test_groups_and_heads_that_do_not_divide_the_channels():
    with pytest.raises(SettingsError, match="4 groups do not divide 6 channels"):
        layers.GroupNorm(6, 4)
    with pytest.raises(SettingsError, match="3 attention heads do not divide 8 channels"):
        layers.LinearAttention(8, heads=3, groups=4, rng=rng())


def test_time_embedding():
    """DDM's: all sines, then all cosines, then Linear, SiLU, Linear."""
    time, t = layers.TimeEmbedding(8, rng=rng()), np.array([0, 7, 1999], np.int32)
    angles = t[:, None] * np.exp(-np.log(1e4) * np.array([0, 2, 4, 6]) / 8)
    hidden = np.concatenate([np.sin(angles), np.cos(angles)], 1) @ np.asarray(time.expand.kernel)
    wanted = hidden / (1 + np.exp(-hidden)) @ np.asarray(time.project.kernel)
    np.testing.assert_allclose(time(jnp.asarray(t)), wanted, rtol=1e-3, atol=1e-4)


def test_linear_starts_orthogonal_with_zero_bias():
    for ci, co in ((8, 3), (3, 8), (8, 8)):
        linear = layers.Linear(ci, co, rng=rng())
        kernel = np.asarray(linear.kernel)
        gram = kernel.T @ kernel if ci >= co else kernel @ kernel.T
        np.testing.assert_allclose(gram, np.eye(min(ci, co)), atol=1e-6)
        assert linear.bias is not None
        assert not np.any(linear.bias)
    kernel = np.asarray(layers.Conv3d(2, 5, rng=rng()).kernel).reshape(-1, 5)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(5), atol=1e-6)


def test_linear_attention():
    """DDM's: softmax over the positions, on k only; nothing is scaled."""
    heads, groups, c = 2, 4, 8
    attention = layers.LinearAttention(c, heads=heads, groups=groups, rng=rng())
    x = normal(0, 2, 1, 2, 3, 4, c)
    flat = group_norm(x, groups).reshape(2, -1, c) @ np.asarray(attention.qkv.kernel)
    mixed = np.zeros((2, 24, c))
    for item in range(2):
        for head in range(heads):
            at = slice(head * c // heads, (head + 1) * c // heads)
            q, k, v = (flat[item, :, part * c : (part + 1) * c][:, at] for part in range(3))
            weights = np.exp(k) / np.exp(k).sum(0)
            mixed[item, :, at] = q @ (weights.T @ v)
    wanted = (mixed @ np.asarray(attention.out.kernel)).reshape(x.shape) + x
    np.testing.assert_allclose(attention(jnp.asarray(x)), wanted, rtol=1e-4, atol=1e-5)


def test_residual_block():
    """The skip is there exactly where the channels change; with zero weights it is all there is."""
    x, time = jnp.asarray(normal(0, 2, 1, 2, 4, 4, 4)), jnp.asarray(normal(1, 2, 8))
    same = layers.ResidualBlock(4, 4, time_dim=8, groups=4, rng=rng())
    wider = layers.ResidualBlock(4, 6, time_dim=8, groups=2, rng=rng())
    assert same.skip is None
    assert wider.skip is not None
    assert wider(x, time).shape == (2, 1, 2, 4, 4, 6)
    for block in (same, wider):
        block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    np.testing.assert_array_equal(same(x, time), x)
    np.testing.assert_array_equal(wider(x, time), wider.skip(x))


def test_residual_block_sees_the_time():
    block = layers.ResidualBlock(4, 4, time_dim=8, groups=1, rng=rng())
    x = jnp.asarray(normal(0, 1, 1, 2, 4, 4, 4))
    early, late = (block(x, jnp.asarray(normal(seed, 1, 8))) for seed in (1, 2))
    assert not np.allclose(early, late, atol=1e-3)


@pytest.mark.parametrize("kind", ["average", "max", "conv"])
def test_downsample(kind):
    x = normal(0, 2, 3, 4, 2, 6, 4)
    down = layers.Downsample(4, kind, rng=rng())
    y = jax.jit(lambda x: down(x))(jnp.asarray(x))
    assert y.shape == (2, 3, 2, 1, 3, 4)
    if kind != "conv":
        blocks = x.reshape(2, 3, 2, 2, 1, 2, 3, 2, 4)
        wanted = (blocks.mean if kind == "average" else blocks.max)((3, 5, 7))
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
