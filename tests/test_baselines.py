"""The baselines: size, losses, and what each takes from its source."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp
from scipy.interpolate import BSpline

from mstg_jax.config import PRESETS, Config, OptimConfig
from mstg_jax.methods import generate_sequence, make_method, new_model
from mstg_jax.methods.r2net import folding
from mstg_jax.models.r2net import LipschitzBlock, spectrally_normalised
from mstg_jax.models.ukan import KANLinear, b_splines
from mstg_jax.training.sharding import make_mesh
from mstg_jax.training.state import init_state, make_optimiser, parameter_count
from mstg_jax.training.step import make_train_step

NAMES = ("voxelmorph", "r2net", "ukan", "cgan")
TINY = PRESETS["acdc-small-tiny"][1]
OPTIM = OptimConfig(learning_rate=2e-3, ema=0.0)
SIZE = (16, 16, 16)
rng = np.random.default_rng(0)


def ball(radius: float) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2)
    return (1 / (1 + np.exp(12 * (distance - radius)))).astype(np.float32)


ED, MIDDLE, ES = ball(0.7), ball(0.6), ball(0.5)
BATCH = {
    "ed": jnp.asarray(ED)[None, ..., None],
    "es": jnp.asarray(ES)[None, ..., None],
    "frames": jnp.asarray(MIDDLE)[None, None, ..., None],
    "gammas": jnp.full((1, 1), 0.5),
    "fov": jnp.ones((1, *SIZE, 1), bool),
    "bend": jnp.zeros((1, 2, *SIZE, 1)),
    "span": jnp.ones((1, 2)),
    "labels_ed": jnp.zeros((1, *SIZE, 1), np.uint8),
    "labels_es": jnp.zeros((1, *SIZE, 1), np.uint8),
    "labels": jnp.zeros((1, 1, *SIZE, 1), np.uint8),
    "group": jnp.zeros(1, np.int32),
    "ef": jnp.full(1, 0.6),
}
KEYS = jax.random.split(jax.random.key(0), 1)


@cache
def method(name: str, **settings):
    return make_method(replace(TINY, method=name, **settings))


@cache
def trained(name: str):
    """The graph, each step's state on the host, and the metrics of so many steps on one batch."""
    optimiser = make_optimiser(OPTIM, 1)
    structure, state = init_state(method(name), optimiser, seed=0)
    mesh = make_mesh(replace(TINY, train=replace(TINY.train, batch=1)), jax.devices()[:1])
    step = make_train_step(method(name), structure, OPTIM, mesh)
    states, metrics = [structure.in_trees(state)], []
    for _ in range(30):
        state, found = step(state, BATCH, jax.random.key(0), 1)
        states.append(structure.in_trees(state))
        metrics.append({key: float(value) for key, value in found.items()})
    return structure.graph, states, metrics


@pytest.mark.parametrize(
    ("name", "count"),
    [("voxelmorph", 361_299), ("r2net", 233_434), ("ukan", 518_177), ("cgan", 474_506)],
)
def test_parameters(name: str, count: int):
    _, params = new_model(make_method(Config(method=name)), seed=0)
    assert parameter_count(params) == count


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_one_batch(name: str):
    losses = [m["loss"] for m in trained(name)[2]]
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


@pytest.mark.parametrize("name", NAMES)
def test_frames(name: str):
    graph, states, _ = trained(name)
    gammas = np.linspace(0, 1, 3, dtype=np.float32)
    frames, flow = generate_sequence(method(name), (graph, states[-1].params), ED, ES, gammas)
    assert frames.shape == (3, *SIZE)
    assert np.all(np.isfinite(frames))
    assert np.any(frames[1] != frames[2])
    if name in ("voxelmorph", "r2net"):
        assert flow is not None
        np.testing.assert_array_equal(frames[0], ED)
        np.testing.assert_allclose(flow[1], flow[2] / 2, atol=1e-6)
    else:
        assert flow is None
        assert frames.min() >= 0
        assert frames.max() <= 1


def test_r2net_stops_after_a_share_of_its_blocks():
    stopping = method("r2net", r2net=replace(TINY.r2net, frames="blocks"))
    graph, states, _ = trained("r2net")
    gammas = np.linspace(0, 1, 4, dtype=np.float32)  # the tiny twin: 0, v0, v1, v2
    frames, flow = generate_sequence(stopping, (graph, states[-1].params), ED, ES, gammas)
    assert flow is not None
    both = jnp.concatenate([BATCH["ed"], BATCH["es"]], axis=-1)
    flows = jax.jit(lambda params: nnx.merge(graph, params)(both))(states[-1].params)
    np.testing.assert_array_equal(frames[0], ED)
    for got, wanted in zip(flow[1:], flows, strict=True):
        np.testing.assert_allclose(got, wanted[0], atol=1e-4)


def test_spectral_norm():
    """Of the flattened kernel 1; a block's residual is Lipschitz with at most sqrt(27) / 2."""
    for shape in ((3, 3, 3, 3, 3), (1, 1, 1, 3, 3), (3, 3, 3, 4, 8)):
        kernel = spectrally_normalised(jnp.asarray(rng.normal(size=shape), jnp.float32), 20)
        largest = np.linalg.norm(np.asarray(kernel).reshape(-1, shape[-1]), 2)
        np.testing.assert_allclose(largest, 1, atol=0.02)
    block = LipschitzBlock(20, rng=np.random.default_rng(1))
    residual = jax.jit(lambda v: block(v) - v)
    v = jnp.asarray(rng.normal(size=(1, 8, 8, 8, 3)), jnp.float32)
    for size in (1e-2, 1.0):
        moved = v + size * jnp.asarray(rng.normal(size=v.shape), jnp.float32)
        stretch = jnp.linalg.norm((residual(moved) - residual(v)).ravel())
        assert stretch <= 27**0.5 / 2 * jnp.linalg.norm((moved - v).ravel())


def test_folding_by_hand():
    """Along w x -> -x: J = -1 everywhere; with the identity twice, x -> 0: J = 0."""
    d, h, w = 3, 4, 5
    still = jnp.zeros((1, d, h, w, 3))
    flipped = still.at[..., 2].set(-2.0 * jnp.arange(w, dtype=jnp.float32).reshape(1, 1, 1, w))
    assert folding(still) == 0
    assert folding(flipped) == (d - 1) * (h - 1) * (w - 1)
    assert folding(flipped, identity=2.0) == 0
    matrix = np.float32([[0.3, -0.8, 0.5], [0.9, -2.5, 0.4], [-0.6, 0.7, 0.2]])
    assert np.linalg.det(matrix + np.eye(3)) < -1
    at = np.stack(np.indices((d, h, w)), axis=-1).astype(np.float32)
    linear = at @ matrix.T
    wanted = -np.linalg.det(matrix + np.eye(3)) * (d - 1) * (h - 1) * (w - 1)
    np.testing.assert_allclose(folding(jnp.asarray(linear)[None]), wanted, rtol=1e-4)


@pytest.mark.parametrize(("grid", "order"), [(5, 3), (4, 1), (3, 2)])
def test_splines_are_scipys(grid: int, order: int):
    x = np.linspace(-2.5, 2.5, 101).astype(np.float32).reshape(101, 1) + 1e-3
    knots = (np.arange(grid + 2 * order + 1) - order) * (2 / grid) - 1
    bases = np.asarray(b_splines(jnp.asarray(x), grid, order))
    assert bases.shape == (101, 1, grid + order)
    for i in range(grid + order):
        one = BSpline.basis_element(knots[i : i + order + 2], extrapolate=False)
        np.testing.assert_allclose(bases[:, 0, i], np.nan_to_num(one(x[:, 0])), atol=1e-5)
    inside = np.abs(x[:, 0]) < 1
    np.testing.assert_allclose(bases[inside, 0].sum(-1), 1, atol=1e-5)


def test_kan_layer():
    layer = KANLinear(3, 2, 5, 3, rng=np.random.default_rng(0))
    x = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
    knots = (np.arange(12) - 3) * 0.4 - 1
    base, scaler, spline = (np.asarray(p) for p in (layer.base, layer.scaler, layer.spline))
    wanted = x / (1 + np.exp(-x)) @ base
    for i in range(3):
        for o in range(2):
            wanted[:, o] += scaler[i, o] * BSpline(knots, spline[i, :, o], 3)(x[:, i])
    np.testing.assert_allclose(layer(jnp.asarray(x)), wanted, atol=1e-5)


def test_each_turn_updates_its_own_part():
    """The step equals two steps of Adam by hand, and no turn's gradient reaches the other part."""
    graph, (before, after, *_), _ = trained("cgan")
    adversaries = method("cgan")
    optimiser = make_optimiser(OPTIM, 1)
    params = before.params
    for turn, state in zip(adversaries.turns, before.opt_state, strict=True):

        def loss(params, turn=turn):
            return turn.loss(nnx.merge(graph, params), BATCH, KEYS)[0]

        gradients = jax.jit(jax.grad(loss))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimiser.update(gradients[turn.part], state, params[turn.part])
        updated = jax.tree.map(lambda x: x, params)
        updated[turn.part] = jax.tree.map(lambda p, u: p + u, params[turn.part], updates)
        other = "generator" if turn.part == "discriminator" else "discriminator"
        jax.tree.map(np.testing.assert_array_equal, updated[other], params[other])
        params = updated
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), after.params, params)
    assert max(jax.tree.leaves(moved)) < 1e-4
    assert all(np.any(a != b) for a, b in zip(*map(kernels, (before, after)), strict=True))
    assert len(after.opt_state) == 2


def kernels(state) -> list[np.ndarray]:
    return [x for x in jax.tree.leaves(state.params) if np.ndim(x) > 1]


def test_ukan_predicts_what_it_is_asked_for():
    """The same network, noise and step are scored against another target each time."""
    losses = set()
    for prediction in ("eps", "x0", "v"):
        made = method("ukan", diffusion=replace(TINY.diffusion, prediction=prediction))
        loss, _ = made.loss(made.build(np.random.default_rng(0)), BATCH, KEYS)
        losses.add(float(loss))
    assert len(losses) == 3, losses
    assert np.isfinite(list(losses)).all()
