"""The type in which networks multiply by their weights.

JAX's own setting carries it, which is part of what compiled programs are known by:
`with jax.default_matmul_precision(BFLOAT16)` around what is traced. Everything else (weights,
norms, the scan, warps, losses, the optimiser) stays in float32.
"""

from collections.abc import Callable

import jax
from jax import Array
from jax import numpy as jnp

BFLOAT16 = "bfloat16"


def weighted(function: Callable[[Array, Array], Array], x: Array, kernel: Array) -> Array:
    """function(x, kernel), a sum of products, in the type that is asked for; the result has x's."""
    asked = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if asked != BFLOAT16:
        return function(x, kernel)
    return function(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)).astype(x.dtype)


def product(x: Array, kernel: Array) -> Array:
    """x (... ci) @ kernel (ci co)."""
    return weighted(jnp.matmul, x, kernel)
