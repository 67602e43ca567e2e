"""Motion from both ends: what holds by construction, and that supervision helps."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax import numpy as jnp

from mstg_jax import interop
from mstg_jax.config import PRESETS, Config, SettingsError
from mstg_jax.methods import generate_sequence, make_method, new_model
from mstg_jax.methods.between import Between
from mstg_jax.training.state import make_optimiser

FLAGS = {
    "all": {},
    "plain": {
        "denoiser": False,
        "radius": 0,
        "bilateral": False,
        "time_course": False,
        "synthesis": False,
    },
    "in space": {"in_plane": False},
    "without synthesis": {"synthesis": False},
    "without denoiser": {"denoiser": False},
    "bend": {"bend": True},
}
SHAPE = (4, 16, 16)

KEYS = jax.random.split(jax.random.key(1), 1)


def settings(**motion: object) -> Config:
    config = PRESETS["acdc-between-tiny"][1]
    config = replace(config, data=replace(config.data, size=(8, *SHAPE[1:])))
    return replace(config, motion=replace(config.motion, **motion))


def shaken(params: nnx.State, size: float = 0.1) -> nnx.State:
    """Nothing at its initial value."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + size * rng.standard_normal(x.shape, np.float32), params)


def moving(gammas: np.ndarray, size: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A ball that shrinks, (t d h w) in [0, 1]."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    far = np.sqrt((grid**2).sum(0))
    return np.stack([1 / (1 + np.exp(12 * (far - 0.8 + 0.35 * g))) for g in gammas]).astype("f4")


def labelled(frame: np.ndarray) -> np.ndarray:
    return np.where(frame > 0.8, 3, np.where(frame > 0.5, 2, np.where(frame > 0.2, 1, 0))).astype(
        np.uint8
    )


def batch_of(first: np.ndarray, frame: np.ndarray, last: np.ndarray, gamma: float) -> dict:
    volumes = {"ed": first, "es": last, "fov": np.ones_like(first, bool)}
    volumes |= {"labels_ed": labelled(first), "labels_es": labelled(last)}
    batch = {name: jnp.asarray(x)[None, ..., None] for name, x in volumes.items()}
    batch["frames"] = jnp.asarray(frame)[None, None, ..., None]
    batch["bend"] = jnp.stack([batch["es"] - batch["ed"]] * 2, axis=1)
    return batch | {"gammas": jnp.array([[gamma]]), "span": jnp.array([[0.38, 4.0]])}


@pytest.mark.parametrize("name", FLAGS)
def test_ends_are_exact_and_flows_vanish_there(name):
    config = settings(**FLAGS[name])
    method = make_method(config)
    assert isinstance(method, Between)
    graph, params = new_model(method, seed=0)
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    frames = moving(gammas)
    made = generate_sequence(method, (graph, shaken(params)), frames[0], frames[-1], gammas)
    np.testing.assert_allclose(made.frames[0], frames[0], atol=1e-6)
    np.testing.assert_allclose(made.frames[-1], frames[-1], atol=1e-6)
    assert made.flow is not None
    assert np.all(made.flow[0] == 0)
    assert np.abs(made.flow[1:]).max() > 0.01
    assert np.any(made.flow[..., 0] != 0) == (name == "in space")


def test_flags_change_the_parameters_they_name():
    def names(**flags: object) -> set[str]:
        _, params = new_model(make_method(settings(**flags)), seed=0)
        return {str(path).split("'")[1] for path, _ in nnx.to_flat_state(params)}

    assert names(**FLAGS["plain"]) == {"encoder", "pyramid"}
    assert names() == {"encoder", "pyramid", "synthesis", "denoiser", "course"}
    assert names(denoiser=False) == {"encoder", "pyramid", "synthesis"}


def test_a_new_model_is_the_blend():
    """Its flows and its residual start at zero: training starts from the strong trivial method."""
    method = make_method(settings())
    gammas = np.linspace(0, 1, 5, dtype=np.float32)
    frames = moving(gammas)
    made = generate_sequence(method, new_model(method, seed=0), frames[0], frames[-1], gammas)
    share = gammas[:, None, None, None]
    np.testing.assert_allclose(made.frames, (1 - share) * frames[0] + share * frames[-1], atol=1e-6)


@pytest.mark.parametrize("slices", [3, 4, 5])
def test_any_number_of_slices(slices: int):
    method = make_method(settings())
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    frames = moving(gammas, (slices, *SHAPE[1:]))
    made = generate_sequence(method, new_model(method, seed=0), frames[0], frames[-1], gammas)
    assert made.frames.shape == frames.shape
    assert made.flow is not None
    assert made.flow.shape == (*frames.shape, 3)


@pytest.mark.parametrize("name", FLAGS)
def test_every_weight_of_the_loss_is_a_part_and_differentiable(name):
    weights = {"agree_weight": 1.0, "label_weight": 1.0, "smooth_weight": 1.0}
    method = make_method(settings(**FLAGS[name], **weights))
    graph, params = new_model(method, seed=0)
    first, frame, last = moving(np.linspace(0, 1, 3))
    batch = batch_of(first, frame, last, 0.5)

    @jax.jit
    def slopes(params):
        return jax.value_and_grad(
            lambda p: method.loss(nnx.merge(graph, p), batch, KEYS), has_aux=True
        )(params)

    (total, parts), gradients = slopes(shaken(params, 0.02))
    config = method.motion
    expected = {"frame": 1.0, "blend": config.blend_weight, "ends": config.ends_weight}
    expected |= {"agree": 1.0, "labels": 1.0, "smooth": 1.0}
    expected |= {"noise": config.noise_weight} if config.denoiser else {}
    assert parts.keys() == expected.keys()
    np.testing.assert_allclose(total, sum(expected[k] * parts[k] for k in parts), rtol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))
    assert -1 <= parts["agree"] <= 0
    assert 0 < parts["labels"] < 1


def test_unlabelled_ends_do_not_weigh():
    method = make_method(settings(label_weight=1.0))
    graph, params = new_model(method, seed=0)
    first, frame, last = moving(np.linspace(0, 1, 3))
    batch = batch_of(first, frame, last, 0.5)
    batch["labels_es"] = jnp.full_like(batch["labels_es"], 255)
    _, parts = method.loss(nnx.merge(graph, params), batch, KEYS)
    assert parts["labels"] == 0


def test_what_lies_out_of_view_does_not_weigh():
    method = make_method(settings(noise_weight=0.0))
    graph, params = new_model(method, seed=0)
    first, frame, last = moving(np.linspace(0, 1, 3))
    batch = batch_of(first, frame, last, 0.5)
    batch["fov"] = batch["fov"].at[:, :, 12:].set(False)
    other = batch | {"frames": batch["frames"].at[:, :, :, 12:].set(7.0)}
    losses = [method.loss(nnx.merge(graph, params), b, KEYS)[0] for b in (batch, other)]
    assert losses[0] == losses[1]


def test_training_brings_frames_closer():
    config = settings(noise_weight=0.0)
    method = make_method(config)
    gammas = np.linspace(0, 1, 4, dtype=np.float32)
    frames = moving(gammas)
    graph, params = new_model(method, seed=0)
    start = generate_sequence(method, (graph, params), frames[0], frames[-1], gammas)
    rates = replace(config.optim, warmup=5, learning_rate=3e-3)
    optimiser = optax.flatten(make_optimiser(rates, 60))  # many updates take long to compile

    @jax.jit
    def step(params, state, i):
        at = 1 + i % 2
        batch = batch_of(frames[0], frames[1], frames[-1], 0.0)
        batch["frames"] = jnp.asarray(frames)[at][None, None, ..., None]
        batch["gammas"] = jnp.asarray(gammas)[at][None, None]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i), 1)
        slopes = jax.grad(lambda p: method.loss(nnx.merge(graph, p), batch, keys)[0])(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(slopes, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    state = optimiser.init(params)
    for i in range(60):
        params, state = step(params, state, i)
    trained = generate_sequence(method, (graph, params), frames[0], frames[-1], gammas)

    def miss(made: np.ndarray) -> float:
        return float(np.mean(np.square(made[1:-1] - frames[1:-1])))

    assert miss(trained.frames) < 0.5 * miss(start.frames)


def test_symmetries_average_what_turned_ends_give():
    """The same frames, turned, of turned ends; a displacement turns along."""
    method = make_method(settings(symmetries=True))
    graph, params = new_model(method, seed=0)
    model = graph, shaken(params)
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    rng = np.random.default_rng(0)
    ed, es = rng.random((2, *SHAPE), np.float32)
    made = generate_sequence(method, model, ed, es, gammas)
    turned = generate_sequence(
        method, model, *(np.ascontiguousarray(np.rot90(x, 1, (1, 2))) for x in (ed, es)), gammas
    )
    np.testing.assert_allclose(np.rot90(made.frames, 1, (2, 3)), turned.frames, atol=2e-5)
    assert made.flow is not None
    assert turned.flow is not None
    flow = np.rot90(made.flow, 1, (2, 3))
    # A quarter turn takes h to where w was counted from its end.
    expected = np.stack([flow[..., 0], -flow[..., 2], flow[..., 1]], axis=-1)
    np.testing.assert_allclose(expected, turned.flow, atol=2e-5)
    single = generate_sequence(make_method(settings()), model, ed, es, gammas)
    assert np.abs(single.frames - made.frames).max() > 1e-3


def test_refining_aligns_the_ends_of_a_new_model():
    """Its frames are then those of the registration alone."""
    config = settings()
    config = replace(config, register=replace(config.register, steps=90, smooth_weight=0.02))
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    frames = moving(gammas, (4, 32, 32))
    plain = make_method(config)
    assert isinstance(plain, Between)
    model = new_model(plain, seed=0)
    alone = make_method(replace(config, method="register"))
    sequences = [
        generate_sequence(method, own, frames[0], frames[-1], gammas)
        for method, own in (
            (plain, model),
            (make_method(replace(config, motion=replace(config.motion, refine=90))), model),
            (alone, new_model(alone, seed=0)),
        )
    ]
    start, refined, registered = (
        float(np.mean(np.square(made.frames[1] - frames[1]))) for made in sequences
    )
    assert refined < 0.6 * start
    np.testing.assert_allclose(refined, registered, rtol=1e-3)
    assert sequences[2].flow is not None
    assert np.all(sequences[2].flow[0] == 0)


def test_it_has_no_pytorch_form():
    config = settings()
    _, params = new_model(make_method(config), seed=0)
    with pytest.raises(SettingsError, match=r"no PyTorch form of method between"):
        interop.to_torch(params, config)
