"""The train step over a mesh, the optimiser, the log, and the request to stop."""

import json
import os
import signal
from dataclasses import replace
from functools import cache
from itertools import pairwise

import chex
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mstg_jax.config import PRESETS, MeshConfig, OptimConfig, Precision, SettingsError, TrainConfig
from mstg_jax.methods import make_method
from mstg_jax.training.log import RunLog
from mstg_jax.training.sharding import batch_shapes, make_mesh, replicate, to_device
from mstg_jax.training.state import as_vector, init_state, make_optimiser
from mstg_jax.training.step import make_train_step
from mstg_jax.training.stop import StopRequest

TINY = PRESETS["ddm-tiny"][1]
SIZE = (8, 16, 16)


def batch_of(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def volume(*shape: int) -> np.ndarray:
        return rng.random((count, *shape), np.float32)

    return {
        "ed": volume(*SIZE),
        "es": volume(*SIZE),
        "frames": volume(1, *SIZE),
        "bend": volume(2, *SIZE),
        "gammas": volume(1),
        "span": np.full((count, 2), 2.0, np.float32),
        "fov": np.ones((count, *SIZE), np.bool_),
        "labels_ed": np.zeros((count, *SIZE), np.uint8),
        "labels_es": np.zeros((count, *SIZE), np.uint8),
        "labels": np.zeros((count, 1, *SIZE), np.uint8),
        "group": np.zeros(count, np.int32),
        "ef": np.zeros(count, np.float32),
    }


@cache
def steps_on(
    devices: int,
    *,
    method: str,
    space: int = 1,
    accumulate: int = 1,
    precision: Precision = "float32",
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and gradients' norms of steps on a batch of 4 over so many devices, (steps 2), and the
    first of the averaged weights after."""
    # But for mstg it is small: Adam makes whole steps of what rounding leaves of slopes of 0.
    optim, count = OptimConfig(learning_rate=1e-2 if method == "mstg" else 1e-4, clip=1.0), 3
    config = replace(PRESETS["acdc-small-tiny"][1], method=method)
    config = replace(
        config,
        data=replace(config.data, size=SIZE),
        model=replace(config.model, channels=(4, 4), mixer_stages=(0,)),
        train=replace(config.train, batch=4, accumulate=accumulate),
        mesh=MeshConfig(space=space),
    )
    mesh = make_mesh(config, jax.devices()[:devices])
    made = make_method(config)
    structure, state = init_state(made, make_optimiser(optim, count), seed=0)
    step = make_train_step(made, structure, optim, mesh, accumulate, precision)
    state, key = replicate(state, mesh), jax.random.key(0)
    found = []
    for _ in range(count):
        state, metrics = step(state, to_device(batch_of(4), mesh), key, count)
        found.append([float(metrics[name]) for name in ("loss", "grad_norm")])
    assert int(state.step) == count
    return np.array(found), np.asarray(jax.tree.leaves(structure.params(state.ema))[0])


@pytest.mark.parametrize(
    ("method", "space", "accumulate"),
    [("mstg", 1, 1), ("mstg", 2, 1), ("between", 4, 4), ("cgan", 2, 2)],
)
def test_the_step_is_the_same_however_it_is_shared_out(method: str, space: int, accumulate: int):
    """By one device; and by four, which share the examples, the slices, or both, or take the
    examples one after the other."""
    one, weights = steps_on(1, method=method)
    assert len(set(one[:, 0])) == len(one)
    other, others = steps_on(4, method=method, space=space, accumulate=accumulate)
    np.testing.assert_allclose(other[:, 0], one[:, 0], rtol=1e-5)
    np.testing.assert_allclose(other[:, 1], one[:, 1], rtol=1e-3)
    np.testing.assert_allclose(others, weights, rtol=1e-3, atol=1e-5)


def test_products_in_bfloat16_are_close_but_not_the_same():
    exact, close = (
        steps_on(1, method="mstg", precision=precision)[0] for precision in ("float32", "bf16")
    )
    np.testing.assert_allclose(close, exact, rtol=0.02)
    assert (np.abs(close / exact - 1) > 1e-6).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 6}, "choose a multiple of 4"),
        ({"batch": 4, "accumulate": 2}, r"4 devices cannot share evenly in 2 pieces; .* of 8"),
        ({"space": 3}, "there are 4 devices"),
        ({"data": 2, "space": 1}, "mesh.space are 2 and 1, but there are 4 devices"),
        ({"batch": 4, "space": 4, "depth": 6}, "volumes have 6 slices"),
    ],
)
def test_what_the_devices_cannot_share_is_refused(settings: dict[str, int], message: str):
    assert jax.device_count() == 4
    mesh = MeshConfig(data=settings.get("data", -1), space=settings.get("space", 1))
    train = TrainConfig(batch=settings.get("batch", 4), accumulate=settings.get("accumulate", 1))
    data = replace(TINY.data, size=(settings.get("depth", 16), 16, 16))
    with pytest.raises(SettingsError, match=message):
        make_mesh(replace(TINY, mesh=mesh, train=train, data=data))


def test_the_learning_rate_warms_up_and_decays():
    config = OptimConfig(learning_rate=1.0, warmup=4, decay="cosine", betas=(0.0, 0.0))
    optimiser = make_optimiser(config, 12)
    params = jnp.zeros(3)
    state = optimiser.init(params)
    sizes = []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(12):
            updates, state = optimiser.update(jnp.ones(3), state, params)
            sizes.append(float(-updates[0]))  # with betas of 0 Adam's step is the sign
    np.testing.assert_allclose(sizes[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-5)
    assert sizes[4] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(sizes[4:]))
    assert sizes[-1] < 0.05


def test_new_states_are_a_function_of_the_seed():
    states = [
        init_state(make_method(TINY), make_optimiser(TINY.optim, 1), seed)[1] for seed in (0, 0, 1)
    ]
    chex.assert_trees_all_equal(states[0], states[1])
    first, other = (jax.tree.leaves(states[i].params) for i in (0, 2))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["voxelmorph", "cgan"])
def test_weights_in_vectors_are_those_by_name(name: str):
    """cgan takes turns: each part has its own state of the optimiser."""
    structure, state = init_state(
        make_method(replace(TINY, method=name)), make_optimiser(TINY.optim, 1), 0
    )
    assert all(x.ndim <= 1 for x in jax.tree.leaves(state))
    numbered = jax.tree.map(lambda x: np.arange(x.size, dtype=x.dtype).reshape(x.shape), state)
    named = structure.in_trees(numbered)
    chex.assert_trees_all_equal_shapes(named, structure.named)
    chex.assert_trees_all_equal(structure.in_vectors(named), numbered)
    chex.assert_trees_all_equal(structure.params(numbered.params), named.params)
    chex.assert_trees_all_equal(as_vector(named.params), numbered.params)


def test_a_longer_run_is_no_other_program():
    """The length is an argument of the step."""
    method = make_method(replace(TINY, method="voxelmorph"))
    structure, state = init_state(method, make_optimiser(TINY.optim, 1), 0)
    config = replace(TINY, train=replace(TINY.train, batch=4))
    mesh = make_mesh(config)
    shapes = batch_shapes(config, method.frames, mesh)
    step = make_train_step(method, structure, TINY.optim, mesh)
    texts = [
        step.lower(state, shapes, jax.random.key(0), np.int32(steps)).as_text()
        for steps in (10, 20)
    ]
    assert texts[0] == texts[1]


def test_a_resumed_log_drops_what_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with RunLog(tmp_path, 0, write=True) as log:
        for step in (1, 2, 3):
            log.add(step, "train", {"loss": float(step)})
    with path.open("ab") as file:
        file.write(b'{"step": 4, "ki\xff')  # a crash in the middle of a line
    with RunLog(tmp_path, 2, write=True) as log:
        log.add(3, "train", {"loss": 30.0})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_the_first_signal_asks_and_the_second_interrupts(capfd):
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)  # before the first step
        stop.listen()
        stop.listen()
        assert not stop.reached(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reached(2)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert "SIGINT: stopping" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_stops_before_its_time_is_over(monkeypatch, capfd):
    """Two steps of the longest would not fit any more: one to do, one to save it."""
    now = 100.0
    monkeypatch.setattr("mstg_jax.training.stop.time.monotonic", lambda: now)
    with StopRequest(until=130.0) as stop:
        for after, expected in [(105.0, False), (112.0, False), (117.0, True)]:
            now = after
            assert stop.reached(1) == expected
    assert "the time is over" in capfd.readouterr().err


def test_untrainable_methods_build_a_model_without_parameters():
    method = make_method(replace(TINY, method="copy"))
    assert not method.trainable
    _, state = init_state(method, make_optimiser(TINY.optim, 1), 0)
    assert state.params.shape == (0,)
