"""What is measured of a preset: the functions that train.py and sample.py run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from mstg_jax.bench.request import FRAMES, Request
from mstg_jax.config import PRESETS, Config
from mstg_jax.methods import Method, generate_sequence, make_method, new_model
from mstg_jax.methods.platform import compiler_options, prepare
from mstg_jax.models.deformation import warp
from mstg_jax.training.sharding import make_mesh, replicate, to_device
from mstg_jax.training.state import init_state, make_optimiser
from mstg_jax.training.step import make_train_step


def prepared(request: Request) -> Callable[[], object]:
    """A call does it once and waits; the first one compiles. Volumes are noise in [0, 1]."""
    config, quantity, size = PRESETS[request.preset][1], request.quantity, request.size
    config = replace(config, data=replace(config.data, size=size), precision=request.precision)
    prepare(config)
    method = make_method(config)
    ed, es = np.random.default_rng(0).random((2, *size), np.float32)
    if quantity == "training step":
        return _step(config, method, ed, es)
    graph, params = new_model(method, config.train.seed)
    if quantity == "sequence of 10 frames":
        gammas = np.linspace(0, 1, FRAMES, dtype=np.float32)
        return lambda: generate_sequence(method, (graph, params), ed, es, gammas)

    def network(params: nnx.State, ed: jax.Array, es: jax.Array) -> jax.Array:
        model: Any = nnx.merge(graph, params)
        if quantity == "denoiser forward":
            return model.code(ed, es, es, jnp.zeros(1, jnp.int32))
        return warp(ed, model.flow(ed, es))

    forward = jax.jit(network, compiler_options=compiler_options())
    args = jax.device_put((params, *(x[None, ..., None] for x in (ed, es))))
    return lambda: jax.block_until_ready(forward(*args))


def _step(config: Config, method: Method, ed: np.ndarray, es: np.ndarray) -> Callable[[], object]:
    optimiser = make_optimiser(config.optim, config.train.steps)
    count = jax.device_count()  # the volume once on each device
    mesh = make_mesh(replace(config, train=replace(config.train, batch=count)))
    structure, state = init_state(method, optimiser, config.train.seed)
    state = replicate(state, mesh)
    step = make_train_step(method, structure, config.optim, mesh, precision=config.precision)
    batch = {"ed": ed[None], "es": es[None], "fov": np.ones_like(es)[None]}
    batch |= {"frames": es[None, None], "gammas": np.ones((1, 1), np.float32)}
    batch |= {"bend": np.zeros_like(batch["frames"]).repeat(2, axis=1)}
    batch |= {"span": np.array([[0.38, 10]], np.float32)}
    batch |= {name: np.zeros(es[None].shape, np.uint8) for name in ("labels_ed", "labels_es")}
    batch |= {"labels": np.zeros(es[None, None].shape, np.uint8)}
    batch |= {"group": np.zeros(1, np.int32), "ef": np.full(1, 0.6, np.float32)}
    on_device = to_device({k: x.repeat(count, axis=0) for k, x in batch.items()}, mesh)
    key = jax.random.key(config.train.seed)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, on_device, key, config.train.steps)
        float(metrics["loss"])

    return run
