"""What method direct generates from: each condition counts where it is given, and nowhere else."""

import typing
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from mstg_jax.config import Condition, Config, DiffusionConfig, DirectConfig, ModelConfig
from mstg_jax.diffusion.process import Level
from mstg_jax.methods.base import Ends
from mstg_jax.methods.direct import Direct
from mstg_jax.methods.given import dropped, made_of
from mstg_jax.models.conditions import (
    channel_count,
    channels,
    nothing,
    vector,
    vector_size,
)

NAMES = typing.get_args(Condition)
SIZE, BATCH, FRAMES = (2, 4, 4), 2, 3
MODEL = ModelConfig(channels=(4, 8), mixer_stages=(1,), d_state=4, time_dim=4)
DIFFUSION = DiffusionConfig(steps=20, frames=FRAMES, sampler_steps=2)
ALL = DirectConfig(given=NAMES, drop=0.3, any_length=True)


def drawn(seed=0, batch=BATCH):
    """A batch of training, two frames of three with labels."""
    rng = np.random.default_rng(seed)
    stack = (batch, FRAMES, *SIZE, 1)
    labels = rng.integers(0, 4, stack).astype(np.uint8)
    labels[:, 1] = 255
    return {
        "ed": jnp.asarray(rng.random((batch, *SIZE, 1)), jnp.float32),
        "es": jnp.asarray(rng.random((batch, *SIZE, 1)), jnp.float32),
        "frames": jnp.asarray(rng.random(stack), jnp.float32),
        "gammas": jnp.asarray(np.sort(rng.random((batch, FRAMES))), jnp.float32),
        "labels": jnp.asarray(labels),
        "group": jnp.asarray(rng.integers(0, 5, batch), jnp.int32),
        "ef": jnp.asarray(rng.random(batch), jnp.float32),
    }


def known_of(direct, seed=0, names=None):
    batch = drawn(seed)
    known = nothing(batch["gammas"], SIZE, direct)
    own = {name: batch[name] for name in ("ed", "es", "labels", "group", "ef")}
    at = jnp.array([[True, False, True]] * BATCH)
    yes = {n: jnp.full(BATCH, n in (names or direct.given)) for n in direct.given}
    return known._replace(keys=batch["frames"], keys_at=at, given=yes, **own)


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.sampled_from(NAMES), unique=True),
    drop=st.sampled_from([0.0, 0.5]),
    mixed=st.booleans(),
)
def test_channels_are_as_many_as_the_network_expects(names, drop, mixed):
    direct = DirectConfig(given=tuple(names), drop=drop, any_length=mixed)
    direct.check()
    known = known_of(direct)
    assert channels(direct, known).shape == (BATCH, FRAMES, *SIZE, channel_count(direct))
    if vector_size(direct):
        assert vector(direct, known).shape == (BATCH, vector_size(direct))


@pytest.mark.parametrize("name", NAMES)
def test_a_condition_is_seen_where_it_is_given(name):
    def seen(seed, names):
        known = known_of(ALL, seed, names)._replace(gammas=drawn(0)["gammas"])
        return np.concatenate([channels(ALL, known).ravel(), vector(ALL, known).ravel()])

    others = [n for n in NAMES if n != name]
    assert np.any(seen(0, [name]) != seen(1, [name]))
    assert np.any(seen(0, [name]) != seen(0, ["no condition"]))
    without = (known_of(ALL, seed, others) for seed in (0, 1))
    first, second = without
    changed = first._replace(**{name: getattr(second, name)})
    for make in (channels, vector):
        np.testing.assert_array_equal(make(ALL, first), make(ALL, changed))


def test_what_is_unknown_is_not_given():
    """Labels of 255, a class of -1 and an ejection fraction of -1."""
    known = known_of(ALL)
    off = known._replace(labels=jnp.full_like(known.labels, 255), ef=-jnp.ones(BATCH))
    off = off._replace(group=jnp.full(BATCH, -1))
    no = jnp.zeros(BATCH, jnp.bool_)
    off_ = known.given | dict.fromkeys(("labels", "ef", "group"), no)
    none = known._replace(given=off_)
    np.testing.assert_array_equal(channels(ALL, off), channels(ALL, none))
    np.testing.assert_array_equal(vector(ALL, off), vector(ALL, none))


def test_shares_of_what_training_leaves_out():
    given_ = dropped(ALL, jax.random.split(jax.random.key(0), 4000))
    table = np.stack([given_[name] for name in NAMES])
    np.testing.assert_allclose(table.mean(1), 0.7 * 0.7, atol=0.04)
    assert abs((~table).all(0).mean() - 0.3) < 0.04
    always = dropped(DirectConfig(), jax.random.split(jax.random.key(0), 100))
    assert all(x.all() for x in always.values())


class Recorded:
    """In place of a network: predicts its input, shifted by what it is given."""

    def given(self, x, t, known):
        mean = channels(ALL, known).mean(axis=(2, 3, 4, 5))[:, :, None, None, None, None]
        return 0.5 * x + mean


def test_frames_that_are_not_there_do_not_count():
    """Whatever stands in their place changes neither the loss nor its gradient."""
    method, batch = Direct(MODEL, DIFFUSION, ALL), drawn()
    keys = jax.random.split(jax.random.key(3), BATCH)

    def loss(frames):
        return method.loss(Recorded(), batch | {"frames": frames}, keys)[0]

    slope = jax.grad(loss)(batch["frames"])
    moves = np.abs(slope).max(axis=(2, 3, 4, 5)) > 0
    assert not moves.all()
    assert moves.any()
    other = jnp.where(moves[:, :, None, None, None, None], batch["frames"], 0.123)
    np.testing.assert_allclose(loss(other), loss(batch["frames"]), rtol=1e-6)


def test_labels_that_are_made_count_where_they_are_known():
    direct = replace(DirectConfig(), makes=("frames", "labels"))
    x0, weight = made_of(direct, drawn())
    labels = np.asarray(drawn()["labels"])
    assert x0.shape == (BATCH, FRAMES, *SIZE, 4)
    for i in (1, 2, 3):
        np.testing.assert_array_equal(x0[:, ::2, ..., i] == 1, labels[:, ::2, ..., 0] == i)
    assert not np.any(weight[:, 1, ..., 1:])
    assert np.all(weight[..., 0] == 1)
    assert np.all(weight[:, ::2] == 1)


def test_guidance_goes_from_nothing_given_through_what_is_given():
    known, x = known_of(ALL), jnp.ones((BATCH, FRAMES, *SIZE, 1))
    level = Level(*(jnp.full(BATCH, value) for value in (0.8, 0.6, 3.0)))

    def made(scale):
        method = Direct(MODEL, DIFFUSION, replace(ALL, guidance=scale))
        return method._guided(Recorded(), x, known, level)[0]

    conditional = Recorded().given(x, level.time, known)
    free = Recorded().given(x, level.time, known.without())
    np.testing.assert_allclose(made(1.0), conditional, rtol=1e-6)
    np.testing.assert_allclose(made(0.0), free, rtol=1e-6)
    np.testing.assert_allclose(made(3.0), free + 3 * (conditional - free), rtol=1e-5)


def test_one_model_makes_frames_from_any_of_its_conditions():
    """Between ED and ES, from ED alone, and from nothing; padded to the length of training."""
    direct = replace(ALL, makes=("frames",))
    method = Direct(MODEL, DIFFUSION, direct)
    graph, params = nnx.split(method.build(np.random.default_rng(0)), nnx.Param)
    draw = jax.jit(lambda p, known, key: method.draw(nnx.merge(graph, p), known, key))
    made = {}
    for names in (("ed", "es"), ("ed",), ("group", "ef"), ("nothing",)):
        made[names] = draw(params, known_of(direct, names=names), jax.random.key(0))
        assert made[names].shape == (BATCH, FRAMES, *SIZE, 1)
        assert np.isfinite(made[names]).all()
    assert np.any(made["ed", "es"] != made["ed",])
    batch = drawn()
    ends = Ends(batch["ed"], batch["es"], jnp.ones((BATCH, 2)), jnp.zeros((BATCH, 2, *SIZE, 1)))
    gammas = jnp.tile(jnp.linspace(0, 1, 5)[None], (BATCH, 1))
    frames = method.generate(nnx.merge(graph, params), ends, gammas, jax.random.key(0)).frames
    assert frames.shape == (BATCH, 5, *SIZE, 1)


@pytest.mark.parametrize(
    ("direct", "message"),
    [
        (DirectConfig(given=("ed", "ed")), "names one twice"),
        (DirectConfig(makes=("labels",)), "frames are always made"),
        (DirectConfig(given=("labels",), makes=("frames", "labels")), "given and made"),
        (DirectConfig(guidance=2.0), "direct.drop above 0"),
        (DirectConfig(drop=1.0), "direct.drop"),
    ],
)
def test_settings_that_cannot_work_are_refused(direct, message):
    with pytest.raises(ValueError, match=message):
        Config(method="direct", direct=direct).check()
