"""The trivial methods that every result is shown beside: ED again and again, and a linear blend."""

from dataclasses import dataclass
from typing import ClassVar, NoReturn

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import MethodName
from mstg_jax.diffusion.draws import Keys
from mstg_jax.methods.base import Batch, Ends, Generated, Method, every_axis

TRIVIAL: tuple[MethodName, ...] = ("copy", "blend")


class Trivial(Method):
    """Without a network and without parameters."""

    trainable: ClassVar[bool] = False

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(0)

    def build(self, rng: np.random.Generator) -> nnx.Module:
        del rng
        return nnx.Module()

    def loss(self, model: nnx.Module, batch: Batch, keys: Keys) -> NoReturn:
        name = type(self).__name__.lower()
        raise NotImplementedError(f"{name} has no parameters: there is nothing to train")


@dataclass(frozen=True)
class Copy(Trivial):
    """Every frame is ED: zero displacement."""

    deforms: ClassVar[bool] = True

    def generate(
        self,
        model: nnx.Module,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        del model, key
        frames = jnp.broadcast_to(ends.ed[:, None], (*gammas.shape, *ends.ed.shape[1:]))
        return Generated(frames, jnp.zeros((*frames.shape[:-1], 3)))


@dataclass(frozen=True)
class Blend(Trivial):
    """(1 - gamma) ED + gamma ES."""

    def generate(
        self,
        model: nnx.Module,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        del model, key
        weight = gammas[:, :, None, None, None, None]
        return Generated((1 - weight) * ends.ed[:, None] + weight * ends.es[:, None], None)
