"""The trivial methods that every result is shown beside: ED again and again, and a linear blend."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NoReturn

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import MethodName
from mstg_jax.methods.base import Batch, Generated, Method
from mstg_jax.shapes import Image

TRIVIAL: tuple[MethodName, ...] = ("copy", "blend")


@dataclass(frozen=True)
class Interpolation(Method):
    """copy: every frame is ED (zero displacement). blend: (1 - gamma) ED + gamma ES."""

    kind: Literal["copy", "blend"]
    trainable: ClassVar[bool] = False

    @property
    def halvings(self) -> tuple[int, int, int]:
        return (0, 0, 0)

    def build(self, rng: np.random.Generator) -> nnx.Module:
        del rng
        return nnx.Module()

    def loss(self, model: nnx.Module, batch: Batch, key: PRNGKeyArray) -> NoReturn:
        raise NotImplementedError(f"{self.kind} has no parameters: there is nothing to train")

    def generate(
        self,
        model: nnx.Module,
        ed: Image,
        es: Image,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        del model, key
        weight = gammas[:, :, None, None, None, None]
        if self.kind == "blend":
            return Generated((1 - weight) * ed[:, None] + weight * es[:, None], None)
        frames = jnp.broadcast_to(ed[:, None], (*gammas.shape, *ed.shape[1:]))
        return Generated(frames, jnp.zeros((*frames.shape[:-1], 3)))
