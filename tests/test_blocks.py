"""Volumes in overlapping blocks: what is cut, blended, and how much memory it takes."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from mstg_jax.config import DiffusionConfig, DirectConfig, ModelConfig, SettingsError
from mstg_jax.methods import memory, new_model
from mstg_jax.methods.blocks import (
    OVERLAP,
    by_blocks,
    corners,
    fitting,
    known_in,
    one_of_each,
    taper,
)
from mstg_jax.methods.direct import Direct
from mstg_jax.models.conditions import channels, nothing

SIZES = st.integers(1, 40)
MODEL = ModelConfig(channels=(4, 8), mixer_stages=(), time_dim=4)
DIFFUSION = DiffusionConfig(steps=20, frames=2, sampler_steps=2, prediction="v")


@settings(max_examples=50, deadline=None)
@given(n=SIZES, b=SIZES)
def test_blocks_cover_an_axis_and_overlap(n, b):
    block = fitting((b, 1, 1), (n, 1, 1))
    first = corners((n, 1, 1), block)[:, 0]
    assert first[0] == 0
    assert first[-1] + block[0] == n
    steps = np.diff(first)
    assert np.all(steps > 0)
    assert np.all(steps <= max(1, block[0] * (1 - OVERLAP) + 1))


def whole(size, batch=2, frames=3, direct=None):
    rng = np.random.default_rng(0)
    known = nothing(
        jnp.tile(jnp.linspace(0, 1, frames)[None], (batch, 1)), size, direct or DirectConfig()
    )
    image = jnp.asarray(rng.random((batch, *size, 1)), jnp.float32)
    keys = jnp.asarray(rng.random((batch, frames, *size, 1)), jnp.float32)
    given_ = {name: jnp.ones(batch, jnp.bool_) for name in known.given}
    return known._replace(ed=image, es=1 - image, keys=keys, given=given_)


def test_what_each_voxel_predicts_for_itself_comes_out_whole():
    """Blending changes nothing where all blocks agree, whatever the channels."""
    size, block = (5, 17, 12), (4, 6, 8)
    known = whole(size)

    def predict(x, known):
        return jnp.concatenate([2 * x + known.ed[:, None], x * known.keys], axis=-1)

    x = known.keys - 0.3
    np.testing.assert_allclose(by_blocks(predict, x, known, block), predict(x, known), rtol=2e-5)


def test_a_block_knows_its_place_in_the_volume():
    """Its position channels are those of the whole volume, cut."""
    direct = DirectConfig(block=(2, 4, 4))
    known = whole((4, 8, 6), direct=direct)
    everything = channels(direct, known)
    corner = jnp.array([1, 3, 2])
    part = channels(direct, known_in(known, corner, (2, 4, 4)))
    np.testing.assert_allclose(part, everything[:, :, 1:3, 3:7, 2:6], atol=1e-6)


def test_training_draws_a_block_of_each_example():
    known, block = whole((4, 9, 8), batch=8), (4, 4, 4)
    keys = jax.random.split(jax.random.key(0), 8)
    (x,), part = one_of_each(keys, (known.keys,), known, block)
    assert x.shape == (8, 3, *block, 1)
    np.testing.assert_array_equal(x, part.keys)
    places = {tuple(np.asarray(p).ravel().tolist()) for p in part.place}
    assert len(places) > 4
    for i in range(8):
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(known.ed)[i, ..., 0], block)
        assert (windows == np.asarray(part.ed)[i, ..., 0]).all((-1, -2, -3)).any()


def test_no_seam_is_left_between_blocks():
    """A prediction that is off by another amount in every block: the differences of neighbouring
    voxels at the borders of blocks are within 5 % of those elsewhere."""
    size, block = (8, 64, 64), (8, 24, 24)
    rng = np.random.default_rng(0)
    texture = jnp.asarray(rng.standard_normal((1, 1, *size, 1)), jnp.float32)
    known = whole(size, batch=1, frames=1)._replace(keys=texture)

    def predict(x, known):
        return known.keys + 0.3 * jnp.sin(7 * known.place.sum())

    made = np.asarray(by_blocks(predict, texture, known, block))[0, 0, ..., 0]
    assert np.std(made - np.asarray(texture)[0, 0, ..., 0]) > 0.02
    first = corners(size, block)
    borders = sorted({int(c) + o for c in first[:, 2] for o in (0, 24)} & set(range(1, 64)))
    steps = np.abs(np.diff(made, axis=2)).mean((0, 1))
    at = np.zeros(63, bool)
    at[[b - 1 for b in borders]] = True
    assert abs(steps[at].mean() / steps[~at].mean() - 1) < 0.05


def test_the_taper_is_largest_in_the_middle():
    weights = taper((4, 5, 6))
    assert weights.shape == (4, 5, 6)
    assert weights.min() > 0
    assert np.unravel_index(weights.argmax(), weights.shape)[1] == 2


@pytest.mark.parametrize(
    ("text", "wanted"), [("4GB", 4 * 2**30), ("0.5 gb", 2**29), ("800MB", 800 * 2**20)]
)
def test_sizes_of_memory(text, wanted):
    assert memory.parse(text) == wanted


@pytest.mark.parametrize("text", ["4", "GB", "four GB", "4TB", "-4GB"])
def test_what_is_no_size_of_memory(text):
    with pytest.raises(SettingsError, match="a number and a unit"):
        memory.parse(text)


def test_blocks_are_as_large_as_the_memory_allows(monkeypatch):
    """Half of what the whole volume takes is met by blocks; nothing is met by none."""
    monkeypatch.setattr(memory, "_resident", lambda: 0)
    method, size = Direct(MODEL, DIFFUSION), (8, 32, 32)
    model = new_model(method, 0)
    all_of_it = memory._needed(replace(method, block=size), model, size, 2)
    assert memory.within(int(all_of_it / memory.MARGIN) + 1, method, model, size, 2).block == size
    half = memory.within(all_of_it // 2, method, model, size, 2)
    assert half.block is not None
    assert np.prod(half.block) < np.prod(size)
    assert memory._needed(half, model, size, 2) <= memory.MARGIN * all_of_it // 2
    with pytest.raises(SettingsError, match="the smallest there are"):
        memory.within(1000, method, model, size, 2)


def test_a_model_trained_on_blocks_samples_a_whole_volume():
    direct = DirectConfig(block=(4, 8, 8))
    method = Direct(MODEL, DIFFUSION, direct)
    graph, params = nnx.split(method.build(np.random.default_rng(0)), nnx.Param)
    known = whole((4, 16, 16), batch=1, frames=2, direct=direct)
    batch = {"ed": known.ed, "es": known.es, "frames": known.keys, "gammas": known.gammas}
    keys = jax.random.split(jax.random.key(0), 1)
    loss, slopes = jax.jit(
        jax.value_and_grad(lambda p: method.loss(nnx.merge(graph, p), batch, keys)[0])
    )(params)
    assert np.isfinite(loss)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    made = jax.jit(lambda p: method.draw(nnx.merge(graph, p), known, keys[0]))(params)
    assert made.shape == (1, 2, 4, 16, 16, 1)
    assert np.isfinite(made).all()
