"""The scan's Triton kernels, chunk-parallel over the tokens; launch.py launches them."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportMissingImports=false
import triton.language as tl

from kernels.selective_scan.gpu.tiles import (
    LOG2E,
    advance,
    by_state,
    channels_of,
    compose,
    compose_grown,
    constant,
    grown,
    jit,
    load,
    matrix_of,
    only,
    program,
    projection,
    steps,
    store,
    sum_states,
    tiles,
    tokens,
    vector,
    wide,
    zeros,
)


@jit
def chunk_states(u, delta, A, B, bias, states, sums, S: tl.constexpr):
    """Of every chunk but the last: its last state from zero (b c-1 d n), and the sum of its steps
    (b c-1 d)."""
    block, batch, chunk = program(S.scan.g * S.blocks, S.scan.chunks - 1)
    group = block // S.blocks
    channels, inside = channels_of(group, block % S.blocks, S)
    matrix, present = matrix_of(channels, inside, S)
    A2 = tl.load(A + matrix, mask=present, other=0.0) * LOG2E
    bias_d = vector(bias, channels, inside, S.scan.bias)
    B_d = constant(B, matrix, present, S.scan.B_varies)
    state = tl.zeros_like(A2)
    total = zeros(S)
    for i in range(tiles(chunk, S)):
        first, along, live = tokens(batch, chunk, i, S)
        mask = live[:, None] & inside[None, :]
        step = steps(load(delta, first, along, channels, mask, S), bias_d, mask, S)
        entering = step * load(u, first, along, channels, mask, S)
        offsets, mask_n = by_state(first, along, live, group, S)
        B_t = projection(B, B_d, offsets, mask_n, S.scan.B_varies, S)
        a = tl.exp2(wide(step) * A2[None])
        _, state = advance(state, a, wide(entering) * B_t, S)
        total += step
    row = (batch * (S.scan.chunks - 1) + chunk).to(tl.int64) * S.scan.d
    tl.store(states + row * S.scan.n + matrix, state, mask=present)
    tl.store(sums + row + channels, tl.sum(total, axis=0), mask=inside)


@jit
def chunk_adjoints(delta, A, C, z, bias, dy, adjoints, sums, S: tl.constexpr):
    """Of every chunk but the first: the gradient by the state that enters it, from its own y alone
    (b c-1 d n), and its steps' sum (b c-1 d)."""
    block, batch, before = program(S.scan.g * S.blocks, S.scan.chunks - 1)
    chunk = before + 1
    group = block // S.blocks
    channels, inside = channels_of(group, block % S.blocks, S)
    matrix, present = matrix_of(channels, inside, S)
    A2 = tl.load(A + matrix, mask=present, other=0.0) * LOG2E
    bias_d = vector(bias, channels, inside, S.scan.bias)
    C_d = constant(C, matrix, present, S.scan.C_varies)
    adjoint = tl.zeros_like(A2)
    total = zeros(S)
    count = tiles(chunk, S)
    for i in range(count):
        first, along, live = tokens(batch, chunk, count - 1 - i, S)
        mask = live[:, None] & inside[None, :]
        step = steps(load(delta, first, along, channels, mask, S), bias_d, mask, S)
        g = load(dy, first, along, channels, mask, S)
        if S.scan.gate:
            z_t = load(z, first, along, channels, mask, S)
            g *= z_t * tl.sigmoid(z_t)
        offsets, mask_n = by_state(first, along, live, group, S)
        C_t = projection(C, C_d, offsets, mask_n, S.scan.C_varies, S)
        a = tl.exp2(wide(step) * A2[None])
        b = a * (wide(g) * C_t)
        folded = only(S.tile.T - 1, a * adjoint[None] + b, b, S)
        _, mu = tl.associative_scan((tl.flip(a, 0), tl.flip(folded, 0)), 0, compose)
        adjoint = tl.sum(only(S.tile.T - 1, mu, 0.0, S), axis=0)
        total += step
    row = (batch * (S.scan.chunks - 1) + before).to(tl.int64) * S.scan.d
    tl.store(adjoints + row * S.scan.n + matrix, adjoint, mask=present)
    tl.store(sums + row + channels, tl.sum(total, axis=0), mask=inside)


@jit
def carry(local, sums, A, initial, entering, BACKWARD: tl.constexpr, S: tl.constexpr):
    """The states that enter the chunks (b c d n), from the first one (b d n) and the local ones.

    BACKWARD goes from the last chunk to the first, for the adjoints: what enters a chunk is then
    the gradient by the state that leaves it. A tile is T chunks of D elements of (d n).
    """
    SIZE: tl.constexpr = S.scan.d * S.scan.n
    blocks = tl.cdiv(SIZE, S.tile.D)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    element = tl.program_id(0) % blocks * S.tile.D + tl.arange(0, S.tile.D)
    inside = element < SIZE
    A2 = tl.load(A + element, mask=inside, other=0.0) * LOG2E
    state = tl.load(initial + batch * SIZE + element, mask=inside, other=0.0)
    t = tl.arange(0, S.tile.T)
    for i in range(tl.cdiv(S.scan.chunks, S.tile.T)):
        start = i * S.tile.T
        # The first chunk is entered by `initial`: nothing is read, so that exponent and b are 0.
        passed = (t + start > 0) & (t + start < S.scan.chunks)
        if BACKWARD:
            source = batch * (S.scan.chunks - 1) + (S.scan.chunks - 1 - start)
            target = batch * S.scan.chunks + (S.scan.chunks - 1 - start)
            along = -t
        else:
            source = batch * (S.scan.chunks - 1) + (start - 1)
            target = batch * S.scan.chunks + start
            along = t
        mask = passed[:, None] & inside[None, :]
        channel = along[:, None] * S.scan.d + (element // S.scan.n)[None, :]
        step = tl.load(sums + source * S.scan.d + channel, mask=mask, other=0.0)
        offsets = along[:, None] * SIZE + element[None, :]
        b = tl.load(local + source * SIZE + offsets, mask=mask, other=0.0)
        exponent = step * A2[None, :]
        b = tl.where((t == 0)[:, None], grown(exponent, state[None, :]) + b, b)
        _, h = tl.associative_scan((exponent, b), 0, compose_grown)
        state = tl.sum(tl.where((t == S.tile.T - 1)[:, None], h, 0.0), axis=0)
        written = (t + start < S.scan.chunks)[:, None] & inside[None, :]
        tl.store(entering + target * SIZE + offsets, h, mask=written)


@jit
def outputs(u, delta, A, B, C, D, z, bias, entries, y, last, S: tl.constexpr):
    """y (b l d) from the states that enter the chunks, and the last state (b d n)."""
    block, batch, chunk = program(S.scan.g * S.blocks, S.scan.chunks)
    group = block // S.blocks
    channels, inside = channels_of(group, block % S.blocks, S)
    matrix, present = matrix_of(channels, inside, S)
    A2 = tl.load(A + matrix, mask=present, other=0.0) * LOG2E
    D_d = vector(D, channels, inside, S.scan.skip)
    bias_d = vector(bias, channels, inside, S.scan.bias)
    B_d = constant(B, matrix, present, S.scan.B_varies)
    C_d = constant(C, matrix, present, S.scan.C_varies)
    row = (batch * S.scan.chunks + chunk).to(tl.int64) * (S.scan.d * S.scan.n)
    state = tl.load(entries + row + matrix, mask=present, other=0.0)
    for i in range(tiles(chunk, S)):
        first, along, live = tokens(batch, chunk, i, S)
        mask = live[:, None] & inside[None, :]
        u_t = load(u, first, along, channels, mask, S)
        step = steps(load(delta, first, along, channels, mask, S), bias_d, mask, S)
        offsets, mask_n = by_state(first, along, live, group, S)
        B_t = projection(B, B_d, offsets, mask_n, S.scan.B_varies, S)
        C_t = projection(C, C_d, offsets, mask_n, S.scan.C_varies, S)
        a = tl.exp2(wide(step) * A2[None])
        h, state = advance(state, a, wide(step * u_t) * B_t, S)
        y_t = sum_states(h * C_t) + D_d * u_t
        if S.scan.gate:
            z_t = load(z, first, along, channels, mask, S)
            y_t *= z_t * tl.sigmoid(z_t)
        store(y, y_t, first, along, channels, mask, S)
    if chunk == S.scan.chunks - 1:
        final = batch.to(tl.int64) * (S.scan.d * S.scan.n)
        tl.store(last + final + matrix, state, mask=present)
