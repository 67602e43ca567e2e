"""What shard_map wants to know: over which mesh axes an array varies.

The only file that reads or writes these axes in JAX's types (`manual_axis_type`), which may change
with any of its releases.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array, lax


def axes_of(x: Array) -> Any:
    """Over which mesh axes x varies, as JAX says it."""
    return jax.typeof(x).manual_axis_type


def shape_over(axes: Any, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array to be made, which varies over `axes_of` another one."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=axes)


def varying_alike(x: Any, like: Any) -> Any:
    """Inside shard_map, x as arrays that vary over all mesh axes that any array of `like` does.

    The cast's own gradient sums that of a shared argument over the devices.
    """

    def varying(x: Array) -> frozenset[str]:
        return axes_of(x).varying

    axes = frozenset[str]().union(*map(varying, jax.tree.leaves(like)))

    def cast(x: Array) -> Array:
        missing = tuple(sorted(axes - varying(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, x)
