"""What exp(x) makes of a state, where exp(x) alone is out of range.

A scan in parts multiplies decays over many tokens. For a growing state (A > 0) that product soon
overflows, and meets a state of 0 or 1e-20 which makes up for it: inf * 0 is NaN. So what is kept of
several decays is the sum of their exponents.
"""

import math

from jax import Array
from jax import numpy as jnp


def grown(half: Array, h: Array) -> Array:
    """exp(2 half) h, in two steps: right wherever it is in range, 0 where h is.

    Beyond `most` the smallest normal number leaves the range as well: exp(2 * 88.3) 1.2e-38 is
    more than 3.4e38.
    """
    most = math.log(float(jnp.finfo(h.dtype).max)) - 0.4
    factor = jnp.exp(jnp.minimum(half, most))
    return factor * (factor * h)
