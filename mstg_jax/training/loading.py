"""A run as it is used: its method and weights, and what these need to have estimated first."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from mstg_jax import files
from mstg_jax.config import Config
from mstg_jax.data.pipeline import load_examples
from mstg_jax.data.stream import train_iterator
from mstg_jax.methods import Method, make_method
from mstg_jax.methods.base import Model
from mstg_jax.methods.direct import Direct
from mstg_jax.training.checkpoint import load_model
from mstg_jax.training.sharding import BATCH

log = logging.getLogger(__name__)
DRAWS = 16
"""Training examples by which variances are estimated: 0.5 million voxels at 8 x 64 x 64."""


def load(run: Path, config: Config, *, best: bool = False) -> tuple[Method, Model, int]:
    """Its method, averaged weights and step, newest or best; with diffusion.variance optimal, the
    variances of x_0 are estimated once and kept beside the checkpoints.

    Raises UserError if there is no checkpoint, or none is sound.
    """
    method = make_method(config)
    model, step = load_model(run, config, method, best=best)
    if isinstance(method, Direct) and config.diffusion.variance == "optimal":
        method = replace(method, spread=_spread(run, config, method, model, step))
    return method, model, step


def _spread(
    run: Path, config: Config, method: Direct, model: Model, step: int
) -> tuple[float, ...]:
    kept, settings = run / "variances.json", config.diffusion
    key = f"step {step}, {settings.sampler_steps} {settings.spacing} steps"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if key not in known:
        log.info(f"estimating the variances of x_0, {key}, from {DRAWS} training examples")
        known[key] = _estimated(config, method, model)
        with files.writing("--run", run):
            files.write_text(kept, json.dumps(known, indent=1) + "\n")
    return tuple(known[key])


def _estimated(config: Config, method: Direct, model: Model) -> list[float]:
    training, _ = load_examples(config.data)
    stream = train_iterator(
        training, config.data, batch=1, seed=1, frames=method.frames, ends=method.ends
    )
    graph, params = model

    def found(params: nnx.State, batch: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        return method.unknown(nnx.merge(graph, params), batch, key)

    compiled = jax.jit(found)
    keys = jax.random.split(jax.random.key(0), DRAWS)
    rows = []
    for key in keys:
        item = next(stream)
        batch = {n: item[n][..., None] if item[n].ndim > 2 else item[n] for n in BATCH}
        rows.append(np.asarray(compiled(params, batch, key)))
    return np.stack(rows).mean(axis=0, dtype=np.float64).tolist()
