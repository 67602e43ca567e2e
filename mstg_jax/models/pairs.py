"""Two batches as one, for weights that both meet."""

from jax import numpy as jnp
from jaxtyping import Array, Float


def joined(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[Array, "2*b ..."]:
    """Both of a pair side by side: examples that devices share out stay where they are, while
    one batch after the other would move half of them."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def parted(both: Float[Array, "b2 ..."]) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """The inverse of `joined`."""
    pairs = both.reshape(-1, 2, *both.shape[1:])
    return pairs[:, 0], pairs[:, 1]
