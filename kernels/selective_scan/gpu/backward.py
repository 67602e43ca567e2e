"""The Triton kernel of the scan's gradients; the others are in kernels.py."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportMissingImports=false
import triton.language as tl

from kernels.selective_scan.gpu.tiles import (
    LN2,
    LOG2E,
    advance,
    advance_both,
    by_state,
    channels_of,
    constant,
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
def _none_kept(S: tl.constexpr):
    KEPT: tl.constexpr = S.kept
    R: tl.constexpr = S.tile.R
    D: tl.constexpr = S.tile.D
    J: tl.constexpr = S.tile.J
    return tl.zeros((KEPT, R, D, J), tl.float32)


@jit
def _keep(kept, i, state, S: tl.constexpr):
    """kept (tiles, R, D, J) with its entry i replaced."""
    return tl.where((tl.arange(0, S.kept) == i)[:, None, None, None], state[None], kept)


@jit
def _kept(kept, i, S: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, S.kept) == i)[:, None, None, None], kept, 0.0), axis=0)


@jit
def _add_by_state(ptr, value, offsets, mask, again, S: tl.constexpr):
    """Add the sum over the channels of (T, R, D, J) to a slice that is this program's own."""
    x = tl.permute(tl.sum(value, axis=2), (0, 2, 1))
    T: tl.constexpr = S.tile.T
    N: tl.constexpr = S.tile.R * S.tile.J
    x = tl.reshape(x, (T, N))
    if S.per_split > 1:
        x += tl.load(ptr + offsets, mask=mask & again, other=0.0)
    tl.store(ptr + offsets, x.to(ptr.dtype.element_ty), mask=mask)


@jit
def gradients(
    u, delta, A, B, C, D, z, bias, dy, entries, adjoints,
    du, ddelta, dA, dB, dC, dD, dz, dbias, dh0, S: tl.constexpr,
):  # fmt: skip
    """All gradients, from the states and adjoints (b c d n) that enter the chunks.

    Those of A, D, bias and constant B, C are sums over the chunk, (b c d n) and (b c d); those of
    varying B, C are sums over the program's blocks of channels, (b splits l g n).
    """
    pid, batch, chunk = program(S.scan.g * S.tile.splits, S.scan.chunks)
    group, split = pid // S.tile.splits, pid % S.tile.splits
    chunk_row = (batch * S.scan.chunks + chunk).to(tl.int64) * S.scan.d
    part = (batch * (S.tile.splits - 1) + split).to(tl.int64) * (S.scan.l * S.scan.g * S.scan.n)
    count = tiles(chunk, S)
    for j in range(S.per_split):
        channels, inside = channels_of(group, split * S.per_split + j, S)
        matrix, present = matrix_of(channels, inside, S)
        A2 = tl.load(A + matrix, mask=present, other=0.0) * LOG2E
        D_d = vector(D, channels, inside, S.scan.skip)
        bias_d = vector(bias, channels, inside, S.scan.bias)
        B_d = constant(B, matrix, present, S.scan.B_varies)
        C_d = constant(C, matrix, present, S.scan.C_varies)

        state = tl.load(entries + chunk_row * S.scan.n + matrix, mask=present, other=0.0)
        kept = _none_kept(S)
        for i in range(count - 1):
            kept = _keep(kept, i, state, S)
            first, along, live = tokens(batch, chunk, i, S)
            mask = live[:, None] & inside[None, :]
            step = steps(load(delta, first, along, channels, mask, S), bias_d, mask, S)
            entering = step * load(u, first, along, channels, mask, S)
            offsets, mask_n = by_state(first, along, live, group, S)
            B_t = projection(B, B_d, offsets, mask_n, S.scan.B_varies, S)
            a = tl.exp2(wide(step) * A2[None])
            _, state = advance(state, a, wide(entering) * B_t, S)

        adjoint = tl.load(adjoints + chunk_row * S.scan.n + matrix, mask=present, other=0.0)
        dA_d, dB_d, dC_d = tl.zeros_like(A2), tl.zeros_like(A2), tl.zeros_like(A2)
        dD_d = zeros(S)
        dbias_d = zeros(S)
        for k in range(count):
            i = count - 1 - k
            first, along, live = tokens(batch, chunk, i, S)
            mask = live[:, None] & inside[None, :]
            u_t = load(u, first, along, channels, mask, S)
            raw = load(delta, first, along, channels, mask, S)
            dy_t = load(dy, first, along, channels, mask, S)
            step = steps(raw, bias_d, mask, S)
            g = dy_t
            if S.scan.gate:
                z_t = load(z, first, along, channels, mask, S)
                gate = tl.sigmoid(z_t)
                g *= z_t * gate
            offsets, mask_n = by_state(first, along, live, group, S)
            B_t = projection(B, B_d, offsets, mask_n, S.scan.B_varies, S)
            C_t = projection(C, C_d, offsets, mask_n, S.scan.C_varies, S)

            a = tl.exp2(wide(step) * A2[None])
            h, h_before = advance_both(state, a, wide(step * u_t) * B_t, 0, False, S)
            if S.scan.gate:
                y_t = sum_states(h * C_t) + D_d * u_t
                slope = gate * (1.0 + z_t * (1.0 - gate))
                store(dz, dy_t * y_t * slope, first, along, channels, mask, S)
            if S.scan.C_varies:
                _add_by_state(dC + part, h * wide(g), offsets, mask_n, j > 0, S)
            else:
                dC_d += tl.sum(h * wide(g), axis=0)

            own = wide(g) * C_t  # the gradient by h_t from y_t alone
            mu, after = advance_both(adjoint, a, a * own, S.tile.T - 1, True, S)
            adjoint = tl.sum(only(0, mu, 0.0, S), axis=0)
            through_a = mu * h_before
            dA_d += tl.sum(through_a * wide(step), axis=0)
            by_decay = sum_states(through_a * A2[None]) * LN2
            lam = own + after  # by h_t; mu = a lam, by h_{t-1} through h_t
            if S.scan.B_varies:
                _add_by_state(dB + part, lam * wide(step * u_t), offsets, mask_n, j > 0, S)
            else:
                dB_d += tl.sum(lam * wide(step * u_t), axis=0)
            by_entering = sum_states(lam * B_t)
            state = _kept(kept, i - 1, S)

            dstep = by_entering * u_t + by_decay
            if S.scan.softplus:
                dstep *= tl.sigmoid(raw + bias_d)
            dstep = tl.where(mask, dstep, 0.0)
            store(ddelta, dstep, first, along, channels, mask, S)
            store(du, by_entering * step + D_d * g, first, along, channels, mask, S)
            dD_d += g * u_t
            dbias_d += dstep

        tl.store(dA + chunk_row * S.scan.n + matrix, dA_d, mask=present)
        if not S.scan.B_varies:
            tl.store(dB + chunk_row * S.scan.n + matrix, dB_d, mask=present)
        if not S.scan.C_varies:
            tl.store(dC + chunk_row * S.scan.n + matrix, dC_d, mask=present)
        if S.scan.skip:
            tl.store(dD + chunk_row + channels, tl.sum(dD_d, axis=0), mask=inside)
        if S.scan.bias:
            tl.store(dbias + chunk_row + channels, tl.sum(dbias_d, axis=0), mask=inside)
        if chunk == 0:
            start = batch.to(tl.int64) * (S.scan.d * S.scan.n)
            tl.store(dh0 + start + matrix, adjoint, mask=present)
        if S.per_split > 1:
            tl.debug_barrier()  # the next block of channels reads what this one wrote to dB, dC
