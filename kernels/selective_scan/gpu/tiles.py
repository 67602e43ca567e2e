"""What the scan's Triton kernels are made of; they are in kernels.py and backward.py.

A program works on one chunk of one batch entry and on blocks of channels of one group. Its tile is
(T, R, D, J): T tokens in time order, D channels, and the states n = j * R + r. The axes T and R lie
within a thread, D and J across the threads (D * J = 32 * warps), so a scan over the tokens is plain
sequential code in registers, with no shuffles and no barriers, and so is part of a sum over states.
This needs two cares. (T, D) and (T, n) tiles are loaded as matrices: the layouts of loads with four
axes, tokens across lanes, would spread to the scan, which then took 3 times as many instructions.
And a scan back in time is a scan of the flipped tile, which is but a renaming of registers:
`reverse=True` shuffles each value to another lane and back, whatever the layout.

`S` is a plan.Plan. Offsets of rows are int64, as b * l * d may exceed 2^31; those within a tile
are int32. The pointer of an absent argument is never read.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportMissingImports=false
import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


def jit(function: Callable[..., Any]) -> Any:
    """triton.jit of the function itself: a wrapper that checks types has the wrong globals."""
    return triton.jit(inspect.unwrap(function))


@jit
def compose(a1, b1, a2, b2):
    """The map h -> a1 h + b1, then h -> a2 h + b2."""
    return a1 * a2, a2 * b1 + b2


@jit
def grown(exponent, h):
    """2^exponent h, in two steps: right wherever it is in range, 0 where h is (growth.py)."""
    factor = tl.exp2(tl.minimum(0.5 * exponent, 127.4))
    return factor * (factor * h)


@jit
def compose_grown(e1, b1, e2, b2):
    """The map h -> 2^e1 h + b1, then h -> 2^e2 h + b2."""
    return e1 + e2, grown(e2, b1) + b2


@jit
def compose_both(a1, b1, c1, d1, a2, b2, c2, d2):
    """As compose; (c, d) is the same map without its last step: the state before that step."""
    return a1 * a2, a2 * b1 + b2, c2 * a1, c2 * b1 + d2


@jit
def softplus(x):
    """max(x, 0) + log1p(w), w = exp(-|x|), with log1p(w) = 2 atanh(w / (2 + w)) as a series.

    log(1 + w) would round steps of 1e-3 to 1e-4 of themselves.
    """
    w = tl.exp(-tl.abs(x))
    s = w / (w + 2.0)
    q = s * s
    series = q * (0.1111111 + q * (0.09090909 + q * 0.07692308))
    series = 1.0 + q * (0.3333333 + q * (0.2 + q * (0.1428571 + series)))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@jit
def program(blocks, chunks):
    """The block of channels, batch entry, and chunk (of `chunks`) of this program.

    The block varies fastest, so that programs which read the same B and C run side by side.
    """
    pid = tl.program_id(0)
    row = pid // blocks
    return pid % blocks, row // chunks, row % chunks


@jit
def zeros(S: tl.constexpr):
    """A (T, D) tile. Sizes stand in shapes under names: before Triton 3.7 a number out of S is no
    constant there."""
    T: tl.constexpr = S.tile.T
    D: tl.constexpr = S.tile.D
    return tl.zeros((T, D), tl.float32)


@jit
def channels_of(group, block, S: tl.constexpr):
    """The channels of a block, and which of them are the group's."""
    within = block * S.tile.D + tl.arange(0, S.tile.D)
    return group * S.scan.p + within, within < S.scan.p


@jit
def matrix_of(channels, inside, S: tl.constexpr):
    """Offsets and mask (R, D, J) in a (d n) array; a thread's R states are neighbours."""
    n = tl.arange(0, S.tile.J)[None, None, :] * S.tile.R + tl.arange(0, S.tile.R)[:, None, None]
    return channels[None, :, None] * S.scan.n + n, inside[None, :, None] & (n < S.scan.n)


@jit
def tiles(chunk, S: tl.constexpr):
    """How many tiles have tokens: the last chunk may be short."""
    return tl.cdiv(tl.minimum(S.scan.chunk, S.scan.l - chunk * S.scan.chunk), S.tile.T)


@jit
def tokens(batch, chunk, tile, S: tl.constexpr):
    """The row (b l) of a tile's first token, the others' distances from it, which are in the chunk.

    Here alone reversed time becomes positions.
    """
    t = tl.arange(0, S.tile.T)
    start = tile * S.tile.T
    time = chunk * S.scan.chunk + start
    live = t < tl.minimum(S.scan.chunk - start, S.scan.l - time)
    first = batch.to(tl.int64) * S.scan.l
    if S.scan.reverse:
        return first + (S.scan.l - 1 - time), -t, live
    else:
        return first + time, t, live


@jit
def load(ptr, first, along, channels, mask, S: tl.constexpr):
    """A (T, D) tile of a (b l d) array in float32, 0 where masked."""
    ptrs = ptr + first * S.scan.d + (along[:, None] * S.scan.d + channels[None, :])
    return tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)


@jit
def store(ptr, value, first, along, channels, mask, S: tl.constexpr):
    ptrs = ptr + first * S.scan.d + (along[:, None] * S.scan.d + channels[None, :])
    tl.store(ptrs, value.to(ptr.dtype.element_ty), mask=mask)


@jit
def vector(ptr, channels, inside, PRESENT: tl.constexpr):
    """(1, D) of a (d,) array; zeros if it is absent."""
    if PRESENT:
        return tl.load(ptr + channels, mask=inside, other=0.0)[None, :]
    else:
        return tl.zeros_like(channels).to(tl.float32)[None, :]


@jit
def steps(raw, bias, mask, S: tl.constexpr):
    """The step sizes: 0 where masked, after the softplus, so that the state passes unchanged."""
    x = raw + bias
    if S.scan.softplus:
        x = softplus(x)
    return tl.where(mask, x, 0.0)


@jit
def by_state(first, along, live, group, S: tl.constexpr):
    """Offsets and mask of a (T, n) tile of a (b l g n) array."""
    n = tl.arange(0, S.tile.R * S.tile.J)
    offsets = along[:, None] * (S.scan.g * S.scan.n) + n[None, :]
    return (first * S.scan.g + group) * S.scan.n + offsets, live[:, None] & (n < S.scan.n)[None, :]


@jit
def projection(ptr, constant, offsets, mask, VARIES: tl.constexpr, S: tl.constexpr):
    """A (T, R, 1, J) tile of a varying B or C in float32, or the constant one, (1, R, D, J)."""
    if VARIES:
        x = tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        T: tl.constexpr = S.tile.T
        J: tl.constexpr = S.tile.J
        R: tl.constexpr = S.tile.R
        x = tl.reshape(x, (T, J, R))
        return tl.permute(x, (0, 2, 1))[:, :, None, :]
    else:
        return constant[None]


@jit
def constant(ptr, matrix, present, VARIES: tl.constexpr):
    """(R, D, J) of a constant B or C; not read if it varies."""
    if VARIES:
        return tl.zeros_like(matrix).to(tl.float32)
    else:
        return tl.load(ptr + matrix, mask=present, other=0.0)


@jit
def wide(x):
    """(T, D) to (T, 1, D, 1)."""
    return x[:, None, :, None]


@jit
def sum_states(x):
    """(T, R, D, J) to (T, D)."""
    return tl.sum(tl.sum(x, axis=1), axis=2)


@jit
def only(t, x, otherwise, S: tl.constexpr):
    """x at token t of a tile, else `otherwise`."""
    return tl.where((tl.arange(0, S.tile.T) == t)[:, None, None, None], x, otherwise)


@jit
def advance(state, a, b, S: tl.constexpr):
    """All states (T, R, D, J) of a tile that `state` enters, and the last.

    The state is folded into the first step: the products of all a are then dead code.
    """
    _, h = tl.associative_scan((a, only(0, a * state[None] + b, b, S)), 0, compose)
    return h, tl.sum(only(S.tile.T - 1, h, 0.0, S), axis=0)


@jit
def advance_both(state, a, b, at: tl.constexpr, REVERSE: tl.constexpr, S: tl.constexpr):
    """All states of a tile after and before each step; `at` is the step that comes first.

    The states before come for free: c = 1 and d = -0 are folded away. (h - b would lose digits.)
    """
    folded = only(at, a * state[None] + b, b, S)
    one = tl.full(a.shape, 1.0, tl.float32)
    before = only(at, state[None], tl.full(a.shape, -0.0, tl.float32), S)
    if REVERSE:
        _, h, _, h_before = tl.associative_scan(
            (tl.flip(a, 0), tl.flip(folded, 0), one, tl.flip(before, 0)), 0, compose_both
        )
        return tl.flip(h, 0), tl.flip(h_before, 0)
    else:
        _, h, _, h_before = tl.associative_scan((a, folded, one, before), 0, compose_both)
        return h, h_before
