"""The scan as it is commonly written, for comparison: b = any, B and C varying, one group."""

# pyright: reportMissingImports=false

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp

CHUNK = 256
Scan = Callable[..., Array]


def completed(scan: Scan) -> Scan:
    """A scan of u, delta, A, B and C, with what else `selective_scan` takes around it."""

    @wraps(scan)
    def run(
        u: Array,
        delta: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None = None,
        z: Array | None = None,
        delta_bias: Array | None = None,
        *,
        delta_softplus: bool = False,
    ) -> Array:
        if delta_bias is not None:
            delta = delta + delta_bias[None, None]
        y = scan(u, jax.nn.softplus(delta) if delta_softplus else delta, A, B, C)
        if D is not None:
            y = y + D[None, None] * u
        return y if z is None else y * jax.nn.silu(z)

    return run


@completed
def whole(u: Array, delta: Array, A: Array, B: Array, C: Array) -> Array:
    """One `lax.associative_scan` over all tokens: every state is in memory."""
    decay = jnp.exp(delta[..., None] * A[None, None])
    entered = (delta * u)[..., None] * B[:, :, None]
    _, h = lax.associative_scan(_combine, (decay, entered), axis=1)
    return jnp.sum(h * C[:, :, None], axis=-1)


@completed
def checkpointed(u: Array, delta: Array, A: Array, B: Array, C: Array) -> Array:
    """`lax.scan` over checkpointed `lax.scan`s of 256 tokens, differentiated by JAX."""

    def token(h: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
        u, delta, B, C = x
        h = jnp.exp(delta[..., None] * A[None]) * h + (delta * u)[..., None] * B[:, None]
        return h, jnp.sum(h * C[:, None], axis=-1)

    def chunks(x: Array) -> Array:
        x = jnp.swapaxes(x, 0, 1)
        return x.reshape(-1, min(CHUNK, len(x)), *x.shape[1:])

    start = jnp.zeros((len(u), *A.shape))
    _, y = lax.scan(
        jax.checkpoint(partial(lax.scan, token)), start, tuple(map(chunks, (u, delta, B, C)))
    )
    return jnp.swapaxes(y.reshape(-1, *y.shape[2:]), 0, 1)


def torch_loop(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    *,
    delta_softplus: bool = False,
) -> Any:
    """In PyTorch, with what does not depend on the state computed for all tokens at once, as in
    mamba's selective_scan_ref: tensors (b l d n) before the loop, one state per token in it."""
    import torch

    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = torch.nn.functional.softplus(delta)
    decay = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
    entered = torch.einsum("bld,bln,bld->bldn", delta, B, u)
    h = torch.zeros_like(decay[:, 0])
    y = []
    for i in range(u.shape[1]):
        h = decay[:, i] * h + entered[:, i]
        y.append(torch.einsum("bdn,bn->bd", h, C[:, i]))
    out = torch.stack(y, dim=1)
    if D is not None:
        out = out + D * u
    return out if z is None else out * torch.nn.functional.silu(z)


def _combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    return left[0] * right[0], right[0] * left[1] + right[1]
