"""The arguments as chunked.py walks them: time first, cut into chunks, channels last."""

from typing import NamedTuple

import jax
from jax import Array
from jax import numpy as jnp

from kernels.selective_scan.form import Arguments, Options, chunks, groups, steps


class Rows(NamedTuple):
    """What the recurrence takes, real; B and C are (t n b g 1) or, constant, (1 n 1 g p)."""

    u: Array  # (t b g p)
    delta: Array  # (t b g p), positive
    B: Array
    C: Array


class Tokens(NamedTuple):
    """What varies with time, in the arguments' types: of one chunk (t ...) or all (c t ...)."""

    u: Array  # (t b g p)
    delta: Array  # (t b g p), before bias and softplus
    z: Array | None  # (t b g p)
    B: Array | None  # (t n b g 1)
    C: Array | None  # (t n b g 1)


class Fixed(NamedTuple):
    """What does not vary with time, real."""

    A: Array  # (n 1 g p)
    D: Array | None  # (1 g p)
    delta_bias: Array | None  # (1 g p)
    B: Array | None  # (1 n 1 g p)
    C: Array | None  # (1 n 1 g p)


class Layout:
    """Both ways between `Arguments` and the parts above, for one set of shapes."""

    def __init__(self, args: Arguments, options: Options):
        self.batch, self.length, d = args.u.shape
        self.n = args.A.shape[1]
        self.channels = (groups(args), d // groups(args))
        self.count = chunks(self.length, options)
        self.size = min(options.chunk, self.length)
        self.pad = self.count * self.size - self.length

    def chunked(self, x: Array) -> Array:
        """(b l d) -> (c t b g p), (b l g n) -> (c t n b g 1), with zeros after the last token."""
        x = jnp.swapaxes(x, 0, 1)
        x = (
            jnp.moveaxis(x, 3, 1)[..., None]
            if x.ndim == 4
            else x.reshape(*x.shape[:2], *self.channels)
        )
        x = jnp.pad(x, [(0, self.pad)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(self.count, self.size, *x.shape[1:])

    def natural(self, x: Array) -> Array:
        """The inverse of `chunked`."""
        x = x.reshape(-1, *x.shape[2:])[: self.length]
        if x.ndim == 5:
            return jnp.swapaxes(jnp.moveaxis(x[..., 0], 1, 3), 0, 1)
        return jnp.swapaxes(x.reshape(*x.shape[:2], -1), 0, 1)

    def tokens(self, args: Arguments) -> Tokens:
        def varying(x: Array | None) -> Array | None:
            return None if x is None or x.ndim == 2 else self.chunked(x)

        return Tokens(
            self.chunked(args.u),
            self.chunked(args.delta),
            varying(args.z),
            varying(args.B),
            varying(args.C),
        )

    def fixed(self, args: Arguments) -> Fixed:
        def rows(M: Array) -> Array:
            return M.T.reshape(self.n, 1, *self.channels)

        def constant(M: Array) -> Array | None:
            return rows(M)[None] if M.ndim == 2 else None

        def row(x: Array | None) -> Array | None:
            return None if x is None else x.reshape(1, *self.channels)

        return Fixed(
            rows(args.A), row(args.D), row(args.delta_bias), constant(args.B), constant(args.C)
        )

    def natural_fixed(self, name: str, x: Array) -> Array:
        """A gradient of `fixed` as that of the argument of this name."""
        return x.reshape(-1) if name in ("D", "delta_bias") else x.reshape(self.n, -1).T

    def valid(self) -> Array | None:
        """Which tokens are real (c t 1 1 1); None if all are."""
        if not self.pad:
            return None
        real = jnp.arange(self.count * self.size) < self.length
        return real.reshape(self.count, self.size, 1, 1, 1)

    def states(self, h: Array) -> Array:
        """(*c b d n) -> (*c n b g p)."""
        h = h.reshape(*h.shape[:-2], *self.channels, self.n)
        return jnp.moveaxis(h, -1, -4)

    def natural_states(self, h: Array) -> Array:
        """The inverse of `states`."""
        h = jnp.moveaxis(h, -4, -1)
        return h.reshape(*h.shape[:-3], -1, self.n)


def rows_of(tokens: Tokens, fixed: Fixed, valid: Array | None, options: Options) -> Rows:
    """The recurrence's rows of one chunk; padding has delta = 0, which leaves the state alone."""
    real = fixed.A.dtype
    bias = None if fixed.delta_bias is None else fixed.delta_bias[None]
    delta = steps(tokens.delta.astype(real), bias, options)
    if valid is not None:
        delta = jnp.where(valid, delta, 0.0)

    def projection(varying: Array | None, constant: Array | None) -> Array:
        found = constant if varying is None else varying.astype(real)
        assert found is not None
        return found

    B, C = projection(tokens.B, fixed.B), projection(tokens.C, fixed.C)
    return Rows(tokens.u.astype(real), delta, B, C)


def gated(y: Array, u: Array, D: Array | None, z: Array | None) -> Array:
    """(y + D u) SiLU(z) of one chunk."""
    if D is not None:
        y = y + D[None] * u
    return y if z is None else y * jax.nn.silu(z.astype(y.dtype))
