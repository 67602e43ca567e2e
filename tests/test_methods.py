"""Every way to generate frames: the protocol, the losses, and what comes out."""

from dataclasses import replace
from functools import cache
from typing import get_args

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from mstg_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    MethodName,
    ModelConfig,
    MotionConfig,
    SettingsError,
)
from mstg_jax.methods import Method, generate_sequence, make_method
from mstg_jax.methods.base import FRAMES_PER_PROGRAM
from mstg_jax.methods.direct import Direct

SHAPE = (16, 16, 16)
CONFIG = Config(
    model=ModelConfig(
        channels=(4,),
        mixer_stages=(0,),
        branches=("temporal",),
        bidirectional=False,
        d_state=2,
        deformation_channels=(4, 4, 4),
    ),
    diffusion=DiffusionConfig(steps=20, frames=2, sampler_steps=2),
)
NAMES = get_args(MethodName)
rng = np.random.default_rng(0)
ED, ES = (rng.random(SHAPE).astype(np.float32) for _ in range(2))


@cache
def method(name):
    return make_method(replace(CONFIG, method=name))


@cache
def model(name):
    return nnx.split(method(name).build(np.random.default_rng(0)), nnx.Param)


@cache
def sequence(name, count, seed=0):
    gammas = np.linspace(0, 1, count, dtype=np.float32)
    return generate_sequence(method(name), model(name), ED, ES, gammas, seed)


@pytest.mark.parametrize("name", NAMES)
def test_protocol(name):
    assert isinstance(method(name), Method)
    assert method(name).trainable == (name not in ("register", "copy", "blend"))
    assert bool(jax.tree.leaves(model(name)[1])) == method(name).trainable


@pytest.mark.parametrize(
    ("config", "multiple"),
    [
        (Config(), 16),
        (Config(method="between", motion=MotionConfig(denoiser=False, channels=(4, 4))), (2, 4, 4)),
        (Config(method="direct"), 8),
        (Config(method="voxelmorph"), 16),
        (Config(method="r2net"), 16),
        (Config(method="ukan"), 16),
        (Config(method="cgan"), 8),
        (Config(method="blend"), 1),
    ],
)
def test_the_grid_must_be_halved_as_often_as_the_networks_do(
    config: Config, multiple: int | tuple[int, int, int]
):
    """Of between by the spacing, 3.15 mm along depth and 1.5 mm in plane: depth once less."""
    wanted = (multiple,) * 3 if isinstance(multiple, int) else multiple
    for axis, number in enumerate(wanted):
        size = [32, 32, 32]
        size[axis] = number
        make_method(replace(config, data=DataConfig(size=(size[0], size[1], size[2]))))
        if number == 1:
            continue
        size[axis] = number + number // 2
        with pytest.raises(SettingsError, match=rf"must be multiples of \({wanted[0]}, "):
            make_method(replace(config, data=DataConfig(size=(size[0], size[1], size[2]))))


def test_own_slices_are_halved_as_the_networks_need_them():
    config = Config(method="between", data=DataConfig(depth="native", slices=8, thickness=10.0))
    assert make_method(config).halvings == (2, 4, 4)
    with pytest.raises(SettingsError, match=r"data\.slices and data\.size make a grid of \(7, 128"):
        make_method(replace(config, data=replace(config.data, slices=7)))


def test_ukan_alone_is_quicker_when_training_validates():
    for name, steps in (("direct", 50), ("ukan", 10)):
        quick = make_method(Config(method=name), quick=True)
        assert isinstance(quick, Direct)
        assert quick.diffusion.sampler_steps == steps
        assert quick == make_method(Config(method=name)) or name == "ukan"


@pytest.mark.parametrize("name", ["mstg", "ddm", "direct"])
def test_loss(name):
    graph, params = model(name)
    frames = 2 if name == "direct" else 1
    batch = {"ed": ED, "es": ES, "fov": np.ones(SHAPE, bool)}
    batch = {key: jnp.asarray(value)[None, ..., None] for key, value in batch.items()}
    batch["frames"] = jnp.asarray(np.stack([ED, ES])[None, :frames, ..., None])
    batch["gammas"] = jnp.linspace(0.2, 0.7, frames)[None]

    def loss(params, keys):
        return method(name).loss(nnx.merge(graph, params), batch, keys)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, parts), gradients = step(params, jax.random.split(jax.random.key(0), 1))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((value, parts, gradients)))
    # A new mixer ends in a convolution of zeros: the weights before it wait for one step.
    assert all(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(gradients)) == (name == "ddm")
    if name == "direct":
        assert value == parts["noise"]
    else:
        total = parts["noise"] - 20 * parts["ncc"] + 20 * parts["smooth"]
        np.testing.assert_allclose(value, total, rtol=1e-5)
        assert 0 < parts["ncc"] < 1


def test_copy_and_blend():
    frames, flow = sequence("copy", 3)
    np.testing.assert_array_equal(frames, [ED] * 3)
    np.testing.assert_array_equal(flow, np.zeros((3, *SHAPE, 3)))
    assert method("copy").deforms
    assert not method("blend").deforms
    frames, flow = sequence("blend", 3)
    np.testing.assert_allclose(frames, [ED, (ED + ES) / 2, ES], rtol=1e-6)
    assert flow is None
    with pytest.raises(NotImplementedError, match="copy has no parameters"):
        method("copy").loss(nnx.Module(), {}, jax.random.split(jax.random.key(0), 1))


@pytest.mark.parametrize("name", ["mstg", "direct"])
def test_padding_does_not_show(name):
    """Fewer frames come out than are computed, and the flow is None or one per frame."""
    count = FRAMES_PER_PROGRAM - 1
    frames, flow = sequence(name, count)
    assert frames.shape == (count, *SHAPE)
    assert np.all(np.isfinite(frames))
    assert (flow is None) == (name == "direct") == (not method(name).deforms)
    assert flow is None or flow.shape == (count, *SHAPE, 3)


def test_fresh_mstg_starts_at_ed():
    """The deformation starts near the identity; at gamma 0 the code is 0 whatever ES is."""
    frames, flow = sequence("mstg", 3)
    assert np.abs(flow).max() < 0.1
    np.testing.assert_allclose(frames[:, 1:-1, 1:-1, 1:-1], [ED[1:-1, 1:-1, 1:-1]] * 3, atol=0.2)
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    others, _ = generate_sequence(method("mstg"), model("mstg"), ED, ED, gammas)
    np.testing.assert_array_equal(others[0], frames[0])
    assert np.any(others[-1] != frames[-1])


def test_direct_draws_from_the_seed():
    first, other = (sequence("direct", 3, seed)[0] for seed in (0, 1))
    again, _ = generate_sequence(
        method("direct"), model("direct"), ED, ES, np.linspace(0, 1, 3, dtype=np.float32), 0
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(np.abs(first - other)) > 1e-2
    np.testing.assert_array_equal(first, np.clip(first, 0, 1))
