"""The same steps of Adam in JAX and in PyTorch: same weights, noise and diffusion steps."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from mstg_jax.config import Config
from mstg_jax.diffusion.draws import step_and_noise
from mstg_jax.methods.base import Batch, Method


class Trajectory(NamedTuple):
    """losses: at each step. parts: noise, ncc, smooth, and gradients: of the first one."""

    losses: list[float]
    parts: list[float]
    gradients: Any


def drawn(keys: jax.Array, config: Config, like: Any) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the noise that methods/mstg.py draws from keys."""
    t, noise = step_and_noise(keys, like.shape[1:], config.diffusion.steps)
    return np.asarray(t), np.asarray(noise)


def keys_of(step: int, like: Any) -> jax.Array:
    return jax.random.split(jax.random.key(step), len(like))


def in_jax(
    method: Method, config: Config, graph: nnx.GraphDef, params: Any, batch: Batch,
    *, steps: int, rate: float,
) -> Trajectory:  # fmt: skip
    # In one vector: updates of many arrays take long to compile.
    optimiser = optax.flatten(optax.adam(rate, *config.optim.betas))

    @jax.jit
    def step(params, state, keys):
        def loss(params):
            return method.loss(nnx.merge(graph, params), batch, keys)

        (value, parts), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(slopes, state, params)
        return optax.apply_updates(params, updates), state, value, parts, slopes

    state, losses, first = optimiser.init(params), [], ([], None)
    for i in range(steps):
        params, state, value, parts, slopes = step(params, state, keys_of(i, batch["ed"]))
        losses.append(float(value))
        if i == 0:
            first = [float(parts[name]) for name in ("noise", "ncc", "smooth")], slopes
    return Trajectory(losses, *first)


def in_torch(
    model: Any, config: Config, ed: np.ndarray, es: np.ndarray, *, steps: int, rate: float
) -> Trajectory:
    """Of the reference, whose weights change; ed, es (b d h w 1) in [0, 1]."""
    import torch
    from parity import first as tensor
    from torch_reference.diffusion import losses as losses_of

    adam = torch.optim.Adam(model.parameters(), lr=rate, betas=config.optim.betas, eps=1e-8)
    losses, first = [], ([], None)
    for i in range(steps):
        t, noise = drawn(keys_of(i, es), config, es)
        found = losses_of(
            model, *(2 * tensor(x) - 1 for x in (ed, es)),
            torch.tensor(t, dtype=torch.long), tensor(noise),
            ncc_weight=config.diffusion.ncc_weight, smooth_weight=config.diffusion.smooth_weight,
        )  # fmt: skip
        adam.zero_grad()
        found.total.backward()
        if i == 0:
            slopes = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
            first = [x.item() for x in found[1:]], slopes
        adam.step()
        losses.append(float(found.total.detach()))
    return Trajectory(losses, *first)
