"""The learned noise of variational diffusion models (Kingma et al. 2021, arXiv:2107.00630)."""

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


class LogSNR(nnx.Module):
    """gamma(u), minus the logarithm of signal^2 / sigma^2: monotone, from its value at data, u = 0,
    to that at noise, u = 1, both learned too (appendix H).

    ends: log(signal^2 / sigma^2) there before training.
    """

    def __init__(self, ends: tuple[float, float], *, hidden: int = 1024, rng: np.random.Generator):
        def param(values: ArrayLike) -> nnx.Param:
            return nnx.Param(jax.device_put(np.asarray(values, np.float32)))

        self.ends = param(-np.array(ends))
        self.inner = param(rng.standard_normal(hidden))
        self.shift = param(rng.standard_normal(hidden))
        self.outer = param(rng.standard_normal(hidden) / hidden)

    def __call__(self, u: Float[Array, "*b"]) -> Float[Array, "*b"]:
        low, high = self.ends[...]
        start, end = self._shape(jnp.zeros(())), self._shape(jnp.ones(()))
        return low + (high - low) * (self._shape(u) - start) / (end - start)

    def _shape(self, u: Float[Array, "*b"]) -> Float[Array, "*b"]:
        inner, shift = jnp.abs(self.inner[...])[None], self.shift[...][None]
        rising = nnx.sigmoid(u.reshape(-1, 1) * inner + shift)
        return u + (rising @ jnp.abs(self.outer[...])).reshape(u.shape)
