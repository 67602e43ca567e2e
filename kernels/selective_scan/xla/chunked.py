"""Implementations in plain XLA: they run on every platform.

Chunks of tokens follow one another, carrying the state; the backward pass walks them the other way
and recomputes a chunk's states from the one that enters it, so that nothing larger than a chunk is
ever held. Inside, states are (n b g p) with the channels last: sums over n then add whole rows. On
CPU (2 cores, l = 4096, d = 64, n = 16) a forward pass takes 4 ms so, and 7 ms with n last.
"""

from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp

from kernels.selective_scan.form import Arguments, Entries, Options, State, Tokens, tree_like
from kernels.selective_scan.growth import grown
from kernels.selective_scan.xla.blocks import Blocked
from kernels.selective_scan.xla.time_major import Fixed, Layout, Rows, gated, rows_of
from kernels.selective_scan.xla.time_major import Tokens as Chunk


class Sequential:
    """One token after the other: fastest on CPU, where the state stays in the first-level cache."""

    @staticmethod
    def states(h: Array, rows: Rows, A: Array, reverse: bool) -> tuple[Array, Array, Array]:
        """The last state, the states before each token (t n b g p), and y (t b g p)."""
        varying, constant = _split(rows)

        def step(h: Array, token: dict[str, Array]) -> tuple[Array, tuple[Array, Array]]:
            u, delta, B, C = _join(token, constant)
            new = jnp.exp(delta[None] * A) * h + (delta * u)[None] * B
            return new, (h, jnp.sum(new * C, axis=0))

        last, (before, y) = lax.scan(step, h, varying, reverse=reverse)
        return last, before, y

    @staticmethod
    def adjoints(
        r: Array, rows: Rows, A: Array, dy: Array, before: Array, reverse: bool
    ) -> tuple[Array, Array, Rows]:
        """From r, the gradient of the chunk's last state: that of the state that enters it, and
        the gradients of A and of the rows."""
        varying, constant = _split(rows)

        def step(carry: tuple[Array, Array], token: Any) -> tuple[tuple[Array, Array], Rows]:
            (r, dA), (rest, dy, before) = carry, token
            row = _join(rest, constant)
            decay = jnp.exp(row.delta[None] * A)
            adjoint = r + dy[None] * row.C
            to_A, gradients = _token_gradients(adjoint, decay * before, row, A, dy)
            return (decay * adjoint, dA + to_A), gradients

        start = (r, jnp.zeros_like(A))
        (r, dA), gradients = lax.scan(step, start, (varying, dy, before), reverse=not reverse)
        return r, dA, gradients


class Associative:
    """`lax.associative_scan` inside a chunk: log(chunk) parallel steps; the portable fallback."""

    @staticmethod
    def states(h: Array, rows: Rows, A: Array, reverse: bool) -> tuple[Array, Array, Array]:
        entered = (rows.delta * rows.u)[:, None] * rows.B
        before, after, last = _recurrence(h, rows.delta, entered, A, reverse)
        return last, before, jnp.sum(after * rows.C, axis=1)

    @staticmethod
    def adjoints(
        r: Array, rows: Rows, A: Array, dy: Array, before: Array, reverse: bool
    ) -> tuple[Array, Array, Rows]:
        decay = jnp.exp(rows.delta[:, None] * A[None])
        by_y = dy[:, None] * rows.C
        # by the state after each token, from later ones alone; and by the one that enters the chunk
        later, _, first = _recurrence(r, rows.delta, decay * by_y, A, not reverse)
        varying, constant = _split(rows)
        to_A, gradients = jax.vmap(
            lambda a, kept, token, dy: _token_gradients(a, kept, _join(token, constant), A, dy)
        )(later + by_y, decay * before, varying, dy)
        return first, jnp.sum(to_A, axis=0), gradients


def _recurrence(
    h: Array, delta: Array, entered: Array, A: Array, reverse: bool
) -> tuple[Array, Array, Array]:
    """h_t = exp(delta_t A) h_{t-1} + entered_t: h before and after all tokens (t n b g p), and the
    last.

    What several tokens do, h -> exp(s A) h + b, is kept as (s, b): see growth.py. The first h is
    one more token, with s = 0: to multiply it by what all tokens do takes 88 instead of 51 ms of
    CPU time (forward, l = 4096, d = 64, n = 16).
    """
    half = 0.5 * A[None]

    def then(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] + right[0], grown(right[0] * half, left[1]) + right[1]

    def from_first(first: Array, x: Array) -> Array:
        return jnp.concatenate([x, first[None]] if reverse else [first[None], x])

    along = from_first(jnp.zeros_like(delta[0]), delta)[:, None]
    _, states = lax.associative_scan(then, (along, from_first(h, entered)), reverse=reverse)
    early, late = states[:-1], states[1:]
    return (late, early, states[0]) if reverse else (early, late, states[-1])


def _token_gradients(
    adjoint: Array, kept: Array, row: Rows, A: Array, dy: Array
) -> tuple[Array, Rows]:
    """The gradients of A and of one token's row from that of its state, all (n b g p).

    kept is what decay leaves of the state before. As the difference of the new state and what has
    entered it would be cheaper, but lose digits: 1.1e-5 of the gradient of A.
    """
    u, delta, B, C = row
    decayed = adjoint * kept
    h = kept + (delta * u)[None] * B
    along = jnp.sum(adjoint * B, axis=0)
    return (
        _as(A, decayed * delta[None]),
        Rows(
            u=delta * along,
            delta=u * along + jnp.sum(decayed * A, axis=0),
            B=_as(B, adjoint * (delta * u)[None]),
            C=_as(C, h * dy[None]),
        ),
    )


def _as(like: Array, x: Array) -> Array:
    """x summed over the axes along which `like` was broadcast."""
    axes = [i for i, n in enumerate(like.shape) if n == 1 != x.shape[i]]
    return jnp.sum(x, axis=axes, keepdims=True)


def _split(rows: Rows) -> tuple[dict[str, Array], dict[str, Array]]:
    """What varies with the tokens, and one token's worth of what does not."""
    named = rows._asdict()
    varying = {name: x for name, x in named.items() if len(x) == len(rows.u)}
    return varying, {name: x[0] for name, x in named.items() if name not in varying}


def _join(token: dict[str, Array], constant: dict[str, Array]) -> Rows:
    return Rows(**token, **constant)


class Chunked(NamedTuple):
    """An implementation out of the two walks through one chunk."""

    walk: type[Sequential] | type[Associative]

    def forward(self, args: Arguments, options: Options) -> tuple[Tokens, State, Entries]:
        layout = Layout(args, options)
        fixed = layout.fixed(args)

        def chunk(h: Array, x: tuple[Chunk, Array | None]) -> tuple[Array, tuple[Array, Array]]:
            tokens, valid = x
            rows = rows_of(tokens, fixed, valid, options)
            last, _, y = self.walk.states(h, rows, fixed.A, options.reverse)
            return last, (gated(y, rows.u, fixed.D, tokens.z).astype(args.u.dtype), h)

        chunked = (layout.tokens(args), layout.valid())
        last, (y, entries) = lax.scan(
            chunk, layout.states(args.h0), chunked, reverse=options.reverse
        )
        entries = jnp.moveaxis(layout.natural_states(entries), 0, 1)
        return layout.natural(y), layout.natural_states(last), entries

    def backward(
        self, args: Arguments, entries: Entries, dy: Tokens, dlast: State, options: Options
    ) -> Arguments:
        layout = Layout(args, options)
        fixed = layout.fixed(args)

        def chunk(
            carry: tuple[Array, Fixed], x: tuple[Chunk, Array | None, Array, Array]
        ) -> tuple[tuple[Array, Fixed], Chunk]:
            (r, sums), (tokens, valid, h, dy) = carry, x
            rows, to_arguments = jax.vjp(
                lambda tokens, fixed: rows_of(tokens, fixed, valid, options), tokens, fixed
            )
            _, before, y = self.walk.states(h, rows, fixed.A, options.reverse)
            to_gate = jax.vjp(gated, y, rows.u, fixed.D, tokens.z)[1]
            dy, du, dD, dz = to_gate(dy.astype(fixed.A.dtype))
            r, dA, to_rows = self.walk.adjoints(r, rows, fixed.A, dy, before, options.reverse)
            to_rows = to_rows._replace(u=to_rows.u + du)
            to_tokens, to_fixed = to_arguments(Rows(*map(_as, rows, to_rows)))
            sums = jax.tree.map(jnp.add, sums, to_fixed._replace(A=dA, D=dD))
            return (r, sums), to_tokens._replace(z=dz)

        start = (layout.states(dlast), jax.tree.map(jnp.zeros_like, fixed))
        by_chunk = layout.states(jnp.moveaxis(entries, 1, 0))
        chunked = (layout.tokens(args), layout.valid(), by_chunk, layout.chunked(dy))
        (dh0, sums), gradients = lax.scan(chunk, start, chunked, reverse=not options.reverse)
        found = {
            name: layout.natural(g) for name, g in gradients._asdict().items() if g is not None
        }
        found |= {
            name: layout.natural_fixed(name, g)
            for name, g in sums._asdict().items()
            if g is not None
        }
        found["h0"] = layout.natural_states(dh0)
        return tree_like(args, found)


sequential = Blocked(Chunked(Sequential))
associative = Chunked(Associative)
