"""Error messages for arguments of `selective_scan` that do not fit together."""

from jax import Array


def check(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None,
    z: Array | None,
    delta_bias: Array | None,
    h0: Array | None,
) -> None:
    """Raises ValueError that names the argument, its shape and the one that is needed."""
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"u must be (b l d) with no empty axis, but its shape is {u.shape}")
    batch, length, d = u.shape
    if A.ndim != 2 or A.shape[0] != d or A.shape[1] == 0:
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
