"""Sequence parallelism: a scan whose tokens are split over the devices of a mesh axis.

Each device first finds what its own tokens make of an empty state. These carries, and the products
of the decays, are all that is exchanged: 2 b d n numbers per device. With the state that enters its
tokens, it then scans them. Gradients take the same way back.
"""

from collections.abc import Callable

from jax import Array, lax
from jax import numpy as jnp

from kernels.selective_scan.form import Arguments, Options, State, Tokens, steps
from kernels.selective_scan.varying import varying_alike

Scan = Callable[[Arguments], tuple[Tokens, State]]


def across(axis: str, scan: Scan, args: Arguments, options: Options) -> tuple[Tokens, State]:
    """y of this device's tokens, and the state after the last token of all devices.

    Token blocks stand on the devices in the order of their index along `axis`; h0 enters the first
    one in time.
    """
    _, local = scan(args._replace(h0=varying_alike(jnp.zeros_like(args.h0), like=args)))
    decays, locals_ = lax.all_gather((_decay(args, options), local), axis)

    def device(h: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        decay, local = carry
        return decay * h + local, h

    last, entering = lax.scan(device, args.h0, (decays, locals_), reverse=options.reverse)
    index = lax.axis_index(axis)
    own = lax.dynamic_index_in_dim(entering, index, keepdims=False)
    y, _ = scan(args._replace(h0=own))
    # All devices have the last state; a sum over them says so to shard_map.
    return y, lax.psum(jnp.where(index == 0, last, 0.0), axis)


def _decay(args: Arguments, options: Options) -> Array:
    """(b d n): what is left of a state after all tokens here."""
    bias = None if args.delta_bias is None else args.delta_bias[None, None]
    delta = steps(args.delta.astype(args.A.dtype), bias, options)
    return jnp.exp(jnp.sum(delta, axis=1)[..., None] * args.A[None])
