"""The op: checks its arguments, brings them to one form, and calls an implementation."""

from collections.abc import Callable

import jax
from jax import Array
from jax import numpy as jnp

from kernels.selective_scan import reference, xla

IMPLEMENTATIONS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "reference": reference.scan,
    "sequential": xla.sequential,
    "associative": xla.associative,
}


def selective_scan(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    h0: Array | None = None,
    return_last_state: bool = False,
    implementation: str | None = None,
) -> Array | tuple[Array, Array]:
    """Scan of the selective state-space model, with mamba's `selective_scan_ref` semantics.

    delta = softplus(delta + delta_bias); h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;
    y_t = (C_t h_t + D u_t) * SiLU(z_t). Everything is computed in float32; nothing of size
    b*l*d*n reaches memory, forward or backward.

    Args:
        u, delta, z: (b l d).
        A: (d n), negative for a decaying state.
        B, C: (b l n), or (b l g n) where each of g groups serves d/g neighbouring channels,
            or (d n) where they do not depend on the input.
        D, delta_bias: (d,).
        h0: (b d n), the state before the first token; zeros by default.
        return_last_state: also return the state after the last token, float32 (b d n).
        implementation: "reference", "sequential", "associative", or None to choose by platform:
            sequential on CPU, associative elsewhere.
    Returns:
        y (b l d) in u's dtype, or (y, last state).
    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, h0, implementation)
    (batch, length, d), n = u.shape, A.shape[-1]
    groups = next((M.shape[2] for M in (B, C) if M.ndim == 4), 1)
    channels = (groups, d // groups)

    inputs, step_size = u.astype(jnp.float32), delta.astype(jnp.float32)
    if delta_bias is not None:
        step_size = step_size + delta_bias.astype(jnp.float32)[None, None, :]
    if delta_softplus:
        step_size = jax.nn.softplus(step_size)
    state = jnp.zeros((batch, d, n)) if h0 is None else h0
    canonical = (
        inputs.reshape(batch, length, *channels),
        step_size.reshape(batch, length, *channels),
        A.astype(jnp.float32).reshape(*channels, n),
        *(
            M.astype(jnp.float32).reshape(
                (1, *channels, n) if M.ndim == 2 else (batch, length, groups, 1, n)
            )
            for M in (B, C)
        ),
        state.astype(jnp.float32).reshape(batch, *channels, n),
    )
    if implementation is None:
        y, last = jax.lax.platform_dependent(
            *canonical, cpu=xla.sequential, default=xla.associative
        )
    else:
        y, last = IMPLEMENTATIONS[implementation](*canonical)
    y = y.reshape(batch, length, d)
    if D is not None:
        y = y + inputs * D.astype(jnp.float32)[None, None, :]
    if z is not None:
        y = y * jax.nn.silu(z.astype(jnp.float32))
    y = y.astype(u.dtype)
    return (y, last.reshape(batch, d, n)) if return_last_state else y


def _check(u, delta, A, B, C, D, z, delta_bias, h0, implementation) -> None:
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"selective_scan has no implementation {implementation!r}; "
            f"there are {', '.join(IMPLEMENTATIONS)}, or None to choose by platform"
        )
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"u must be (b l d) with no empty axis, but its shape is {u.shape}")
    batch, length, d = u.shape
    if A.ndim != 2 or A.shape[0] != d:
        raise ValueError(f"A must be (d n) with d = {d} as in u, but its shape is {A.shape}")
    n = A.shape[1]
    fixed = {"delta": (delta, u.shape), "D": (D, (d,)), "z": (z, u.shape)}
    fixed |= {"delta_bias": (delta_bias, (d,)), "h0": (h0, (batch, d, n))}
    for name, (value, shape) in fixed.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, but its shape is {value.shape}")
    groups = {M.shape[2] for M in (B, C) if M.ndim == 4}
    for name, M in (("B", B), ("C", C)):
        group = M.shape[2:3] if M.ndim == 4 else ()
        if M.shape not in ((batch, length, *group, n), (d, n)):
            raise ValueError(
                f"{name} must be (b l n) = {(batch, length, n)}, (b l g n) or (d n) = {(d, n)}, "
                f"but its shape is {M.shape}"
            )
    if len(groups) > 1 or any(g < 1 or d % g for g in groups):
        raise ValueError(f"B and C have {sorted(groups)} groups; d = {d} channels need one divisor")
    if len(groups) == 1 and {M.ndim for M in (B, C)} == {3, 4}:
        raise ValueError("B and C must both be grouped, or neither, but one is (b l n)")
