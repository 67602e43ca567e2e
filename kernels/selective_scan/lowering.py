"""How a primitive is lowered: as a function of the platform, or not at all.

The only file that uses `jax.interpreters.mlir`, which may change with any of JAX's releases.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir


def lower_by_platform(primitive: Primitive, run: Callable[..., Any], known: Sequence[str]) -> None:
    """As what `run(*operands, platform=..., **parameters)` traces to: `platform` is one of those
    known, or words for any other."""
    rule = partial(_lower, run=run)
    mlir.register_lowering(primitive, partial(rule, platform="another platform"))
    for platform in known:
        mlir.register_lowering(primitive, partial(rule, platform=platform), platform=platform)


def lower_never(primitive: Primitive, refuse: Callable[..., Any]) -> None:
    """`refuse` raises an error."""
    mlir.register_lowering(primitive, refuse)


def _lower(
    context: Any, *operands: Any, run: Callable[..., Any], platform: str, **parameters: Any
) -> Any:
    # Inside shard_map, types say over which axes of the mesh arrays vary: not here, where there is
    # no mesh.
    types = [ShapedArray(x.shape, x.dtype) for x in context.avals_in]
    rule = mlir.lower_fun(partial(run, platform=platform), multiple_results=True)
    return rule(context.replace(avals_in=types), *operands, **parameters)
