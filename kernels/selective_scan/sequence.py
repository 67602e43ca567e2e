"""Sequence parallelism: a scan whose tokens are split over the devices of a mesh axis.

Each device first finds what its own tokens make of an empty state. These carries, and the sums of
the steps, are all that is exchanged: b d (n + 1) numbers per device. With the state that enters its
tokens, it then scans them. Gradients take the same way back.
"""

from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp

from kernels.selective_scan.form import Arguments, Options, State, Tokens, steps
from kernels.selective_scan.growth import grown
from kernels.selective_scan.varying import varying_alike

Scan = Callable[[Arguments], tuple[Tokens, State]]


def across(axis: str, scan: Scan, args: Arguments, options: Options) -> tuple[Tokens, State]:
    """y of this device's tokens, and the state after the last token of all devices.

    Token blocks stand on the devices in the order of their index along `axis`; h0 enters the first
    one in time.
    """
    _, local = scan(args._replace(h0=varying_alike(jnp.zeros_like(args.h0), like=args)))
    bias = None if args.delta_bias is None else args.delta_bias[None, None]
    time = jnp.sum(steps(args.delta.astype(args.A.dtype), bias, options), axis=1)
    times, locals_ = lax.all_gather((time, local), axis)

    def device(h: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        time, local = carry
        return _carried(time[..., None] * args.A[None], h) + local, h

    last, entering = lax.scan(device, args.h0, (times, locals_), reverse=options.reverse)
    index = lax.axis_index(axis)
    own = lax.dynamic_index_in_dim(entering, index, keepdims=False)
    y, _ = scan(args._replace(h0=own))
    # All devices have the last state; a sum over them says so to shard_map.
    return y, lax.psum(jnp.where(index == 0, last, 0.0), axis)


@jax.custom_jvp
def _carried(exponent: Array, h: Array) -> Array:
    """exp(exponent) h: what is left of a state after all tokens of a device."""
    return grown(0.5 * exponent, h)


@_carried.defjvp
def _slopes(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Not those of grown's parts, one of which may be out of range where the product is not."""
    exponent, h = primals
    after = _carried(exponent, h)
    return after, after * tangents[0] + grown(0.5 * exponent, tangents[1])
