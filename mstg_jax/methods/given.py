"""Of a batch of training: what method direct is to make, and what it is given for that."""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool

from mstg_jax.config import Condition, DirectConfig
from mstg_jax.diffusion.draws import Keys, apart, chance
from mstg_jax.methods.base import Batch
from mstg_jax.models.conditions import Known, nothing
from mstg_jax.shapes import Features


def made_of(direct: DirectConfig, batch: Batch) -> tuple[Features, Features]:
    """What is made, in [-1, 1], and where it is known."""
    frames = 2 * batch["frames"] - 1
    if "labels" not in direct.makes:
        return frames, jnp.ones_like(frames)
    labels = batch["labels"]
    structures = [2 * (labels == i).astype(frames.dtype) - 1 for i in (1, 2, 3)]
    at = (labels != 255).astype(frames.dtype)
    x0 = jnp.concatenate([frames, *(at * x for x in structures)], axis=-1)
    return x0, jnp.concatenate([jnp.ones_like(frames), at, at, at], axis=-1)


def known_of(
    direct: DirectConfig, batch: Batch, keys: Keys, weight: Features
) -> tuple[Known, Features]:
    """What training gives of the conditions, and `weight` where there are frames."""
    gammas = batch["gammas"]
    keys_given, keys_length, keys_at = apart(keys, 3)
    known = nothing(gammas, batch["frames"].shape[2:5], direct)._replace(
        ed=batch["ed"], es=batch["es"], keys=batch["frames"], given=dropped(direct, keys_given)
    )
    if "labels" in batch:
        own = {name: batch[name] for name in ("labels", "group", "ef")}
        known = known._replace(**own)
    if "keys" in direct.given:

        def some(key: Array) -> Array:
            """Of a number of frames that is drawn first."""
            share, each = jax.random.split(key)
            drawn = jax.random.uniform(each, gammas.shape[1:])
            return drawn < jax.random.uniform(share)

        known = known._replace(keys_at=jax.vmap(some)(keys_at))
    if direct.any_length:

        def lengths(key: Array) -> Array:
            """Any number of frames, any of them."""
            length, which = jax.random.split(key)
            ranks = jnp.argsort(jax.random.uniform(which, gammas.shape[1:]))
            return ranks <= jax.random.randint(length, (), 0, gammas.shape[1])

        known = known._replace(here=jax.vmap(lengths)(keys_length))
        weight = weight * known.here.astype(weight.dtype)[:, :, None, None, None, None]
    return known, weight


def dropped(config: DirectConfig, keys: Keys) -> dict[str, Bool[Array, " b"]]:
    """Which conditions training gives: each left out in a share, and all together in a share."""
    names: tuple[Condition, ...] = config.given
    *own, common = apart(keys, len(names) + 1)
    none = chance(common, config.drop)
    return {name: ~chance(key, config.drop) & ~none for name, key in zip(names, own, strict=True)}
