"""What shard_map wants to know: over which mesh axes an array varies."""

from typing import Any

import jax
from jax import Array, lax


def varying_alike(x: Any, like: Any) -> Any:
    """Inside shard_map, x as arrays that vary over all mesh axes that any array of `like` does.

    The cast's own gradient sums that of a shared argument over the devices.
    """

    def varying(x: Array) -> frozenset[str]:
        return jax.typeof(x).manual_axis_type.varying

    axes = frozenset[str]().union(*map(varying, jax.tree.leaves(like)))

    def cast(x: Array) -> Array:
        missing = tuple(sorted(axes - varying(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, x)
