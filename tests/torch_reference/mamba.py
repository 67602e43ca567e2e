"""Mamba's block and scan (Gu & Dao 2023, arXiv:2312.00752).

Axis order of the scan, parameter names and shapes are those of mamba-ssm.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def selective_scan(
    u: Float[Tensor, "b d l"],
    delta: Float[Tensor, "b d l"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "d n"] | Float[Tensor, "b n l"] | Float[Tensor, "b g n l"],
    C: Float[Tensor, "d n"] | Float[Tensor, "b n l"] | Float[Tensor, "b g n l"],
    D: Float[Tensor, " d"] | None = None,
    z: Float[Tensor, "b d l"] | None = None,
    delta_bias: Float[Tensor, " d"] | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Float[Tensor, "b d l"] | tuple[Float[Tensor, "b d l"], Float[Tensor, "b d n"]]:
    """h_t = exp(delta A) h_{t-1} + delta B u (Euler); y_t = (C h_t + D u) SiLU(z).

    Computes in float32, or in float64 if u is that; y has the type of u, the last state the type
    of the computation. Each of g groups of B and C serves d / g neighbouring channels.
    """
    kind, (batch, d, length), n = u.dtype, u.shape, A.shape[1]
    work = torch.float64 if kind == torch.float64 else torch.float32

    def per_channel(M: Tensor) -> Float[Tensor, "b d n l"]:
        M = M.to(work)
        if M.ndim == 2:
            M = M[None, :, :, None]
        elif M.ndim == 3:
            M = M[:, None]
        else:
            M = M.repeat_interleave(d // M.shape[1], dim=1)
        return M.expand(batch, d, n, length)

    u, delta, A = u.to(work), delta.to(work), A.to(work)
    B, C = per_channel(B), per_channel(C)
    if delta_bias is not None:
        delta = delta + delta_bias.to(work)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    h, ys = u.new_zeros(batch, d, n), []
    # unbind, because the gradient of an index is an array of all tokens.
    tokens = (x.unbind(-1) for x in (u[:, :, None], delta[:, :, None], B, C))
    for u_t, step, B_t, C_t in zip(*tokens, strict=True):
        h = torch.exp(step * A) * h + step * B_t * u_t
        ys.append((h * C_t).sum(-1))
    y = torch.stack(ys, dim=-1)
    if D is not None:
        y = y + D.to(work)[:, None] * u
    if z is not None:
        y = y * F.silu(z.to(work))
    y = y.to(kind)
    return (y, h) if return_last_state else y


class Mamba(nn.Module):
    """tokens (b l width) -> the same shape."""

    def __init__(self, width: int, *, d_state: int = 16, d_conv: int = 4, expand: int = 2):
        super().__init__()
        inner, rank = expand * width, math.ceil(width / 16)
        self.sizes = (rank, d_state, d_state)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Float[Tensor, "b l width"]) -> Float[Tensor, "b l width"]:
        length = tokens.shape[1]
        x, z = self.in_proj(tokens).mT.chunk(2, dim=1)  # (b inner l) each
        u = F.silu(self.conv1d(x)[..., :length])
        low, B, C = self.x_proj(u.mT).split(self.sizes, dim=-1)
        y = selective_scan(
            u,
            (low @ self.dt_proj.weight.T).mT,
            -self.A_log.exp(),
            B.mT,
            C.mT,
            self.D,
            z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
        )
        return self.out_proj(y.mT)
