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
    "plain": {"coarse": False, "time_course": False, "residual": False},
    "coarse": {"time_course": False, "residual": False},
    "time course": {"coarse": False, "residual": False},
    "residual": {"coarse": False, "time_course": False},
}


def settings(**motion: object) -> Config:
    config = PRESETS["acdc-between-tiny"][1]
    config = replace(config, data=replace(config.data, size=(8, 16, 16)))
    return replace(config, motion=replace(config.motion, **motion))


def shaken(params: nnx.State, size: float = 0.1) -> nnx.State:
    """Nothing at its initial value."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + size * rng.standard_normal(x.shape, np.float32), params)


def moving(size: tuple[int, int, int], gammas: np.ndarray) -> np.ndarray:
    """A ball that shrinks, (t d h w) in [0, 1]."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    far = np.sqrt((grid**2).sum(0))
    return np.stack([1 / (1 + np.exp(12 * (far - 0.8 + 0.35 * g))) for g in gammas]).astype("f4")


@pytest.mark.parametrize("name", FLAGS)
def test_ends_are_exact_and_flows_vanish_there(name):
    config = settings(**FLAGS[name])
    method = make_method(config)
    assert isinstance(method, Between)
    graph, params = new_model(method, seed=0)
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    frames = moving(config.data.size, gammas)
    made = generate_sequence(method, (graph, shaken(params)), frames[0], frames[-1], gammas)
    np.testing.assert_allclose(made.frames[0], frames[0], atol=1e-6)
    np.testing.assert_allclose(made.frames[-1], frames[-1], atol=1e-6)
    assert made.flow is not None
    assert np.all(made.flow[0] == 0)
    assert np.abs(made.flow[1:]).max() > 0.01


def test_flags_change_the_parameters_they_name():
    def names(**flags: object) -> set[str]:
        _, params = new_model(make_method(settings(**flags)), seed=0)
        return {str(path) for path, _ in nnx.to_flat_state(params)}

    plain = names(**FLAGS["plain"])
    assert {n.split("'")[1] for n in names(**FLAGS["coarse"]) - plain} == {"coarse"}
    assert {n.split("'")[1] for n in names(**FLAGS["time course"]) - plain} == {"course"}


def test_an_untrained_model_is_close_to_the_blend():
    """Its flows and its weight start near zero: training starts from the strong trivial method."""
    config = settings()
    method = make_method(config)
    gammas = np.linspace(0, 1, 5, dtype=np.float32)
    frames = moving(config.data.size, gammas)
    made = generate_sequence(method, new_model(method, seed=0), frames[0], frames[-1], gammas)
    share = gammas[:, None, None, None]
    np.testing.assert_allclose(made.frames, (1 - share) * frames[0] + share * frames[-1], atol=0.02)


@pytest.mark.parametrize("between", [True, False])
def test_only_on_request_do_frames_between_supervise(between):
    method = make_method(settings(between=between))
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    frames = jnp.asarray(moving((8, 16, 16), gammas))[..., None]
    graph, params = new_model(method, seed=0)
    batch = {"ed": frames[:1], "es": frames[2:], "gammas": jnp.asarray(gammas[None, 1:2])}
    batch["frames"] = jnp.full_like(frames[None, 1:2], jnp.nan)  # unknown
    loss = jax.jit(lambda params, key: method.loss(nnx.merge(graph, params), batch, key)[0])
    losses = [loss(params, jax.random.key(i)) for i in range(6)]
    assert bool(jnp.isnan(jnp.stack(losses)).any()) == between


def test_training_brings_frames_closer():
    config = settings()
    method = make_method(config)
    gammas = np.linspace(0, 1, 4, dtype=np.float32)
    frames = moving(config.data.size, gammas)
    graph, params = new_model(method, seed=0)
    start = generate_sequence(method, (graph, params), frames[0], frames[-1], gammas)
    rates = replace(config.optim, warmup=5, learning_rate=3e-3)
    optimiser = optax.flatten(make_optimiser(rates, 60))  # many updates take long to compile

    @jax.jit
    def step(params, state, i):
        at = 1 + i % 2
        batch = {"ed": frames[:1], "es": frames[-1:], "frames": jnp.asarray(frames)[at][None]}
        batch = {k: jnp.asarray(x)[..., None] for k, x in batch.items()}
        batch |= {"frames": batch["frames"][None], "gammas": jnp.asarray(gammas)[at][None, None]}
        key = jax.random.fold_in(jax.random.key(0), i)
        slopes = jax.grad(lambda p: method.loss(nnx.merge(graph, p), batch, key)[0])(params)
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


def test_it_has_no_pytorch_form():
    config = settings()
    _, params = new_model(make_method(config), seed=0)
    with pytest.raises(SettingsError, match=r"no PyTorch form of method between"):
        interop.to_torch(params, config)
