"""DDM (Kim & Ye 2022, MICCAI): denoising U-Net, deformation network, spatial transformer.

Names of submodules, parameters and buffers are those of the public DDM code, so that its
checkpoints (`*_gen_G.pth`) load strictly into `DeformableDiffusion`.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from torch_reference.diffusion import buffers

Volume = Float[Tensor, "b c d h w"]


def frequencies(dim: int, dtype: torch.dtype) -> Float[Tensor, " half"]:
    return torch.exp(torch.arange(0, dim, 2, dtype=dtype) * (-math.log(10_000) / dim))


class TimeEmbedding(nn.Module):
    """t (b,) -> all sines, then all cosines (b dim).

    The buffer holds float32, as in DDM; in float64 the frequencies are computed anew.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.register_buffer("inv_freq", frequencies(dim, torch.float32))

    def forward(self, t: Int[Tensor, " b"]) -> Float[Tensor, "b dim"]:
        dtype = self.inv_freq.dtype
        rates = self.inv_freq if dtype == torch.float32 else frequencies(self.dim, dtype)
        angles = t.to(dtype)[:, None] * rates.to(t.device)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Swish(nn.Module):
    """SiLU, in DDM's two operations: F.silu rounds differently."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class Block(nn.Module):
    """GroupNorm, SiLU, convolution; the third place is DDM's dropout, which it does not use."""

    def __init__(self, ci: int, co: int, groups: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(groups, ci), Swish(), nn.Identity(), nn.Conv3d(ci, co, 3, padding=1)
        )

    def forward(self, x: Volume) -> Volume:
        return self.block(x)


class ResidualBlock(nn.Module):
    def __init__(self, ci: int, co: int, time_dim: int, groups: int):
        super().__init__()
        self.mlp = nn.Sequential(Swish(), nn.Linear(time_dim, co))
        self.block1 = Block(ci, co, groups)
        self.block2 = Block(co, co, groups)
        self.res_conv = nn.Conv3d(ci, co, 1) if ci != co else nn.Identity()

    def forward(self, x: Volume, time: Float[Tensor, "b dim"]) -> Volume:
        shift = self.mlp(time)[..., None, None, None]
        return self.block2(self.block1(x) + shift) + self.res_conv(x)


def attend(qkv: Float[Tensor, "b three_c l"], heads: int) -> Float[Tensor, "b c l"]:
    """(softmax(k) v^T)^T q per head; the softmax runs over the positions and only on k."""
    q, k, v = qkv.unflatten(1, (3, heads, -1)).unbind(1)
    context = k.softmax(dim=-1) @ v.mT  # (b heads ck cv)
    return (context.mT @ q).flatten(1, 2)


class LinearAttention(nn.Module):
    def __init__(self, channels: int, heads: int, groups: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv3d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Volume) -> Volume:
        mixed = attend(self.qkv(self.norm(x)).flatten(2), self.heads)
        return x + self.out(mixed.reshape(x.shape))


class Stage(nn.Module):
    """A residual block; after the first one in the middle comes attention."""

    def __init__(self, ci: int, co: int, time_dim: int, groups: int, heads: int | None = None):
        super().__init__()
        self.res_block = ResidualBlock(ci, co, time_dim, groups)
        self.attn = nn.Identity() if heads is None else LinearAttention(co, heads, groups)

    def forward(self, x: Volume, time: Float[Tensor, "b dim"]) -> Volume:
        return self.attn(self.res_block(x, time))


class Resize(nn.Module):
    """Half the size by a strided convolution, or twice by nearest neighbour and a convolution."""

    def __init__(self, channels: int, *, down: bool):
        super().__init__()
        self.down = down
        self.conv = nn.Conv3d(channels, channels, 3, stride=2 if down else 1, padding=1)

    def forward(self, x: Volume) -> Volume:
        return self.conv(x if self.down else F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """x (b ci d h w), t (b,) -> (b co d h w). DDM's config is the default.

    In the public code time_dim is channels[0].
    """

    def __init__(
        self,
        ci: int = 3,
        co: int = 1,
        channels: tuple[int, ...] = (8, 16, 32, 32),
        *,
        depth: int = 1,
        time_dim: int = 8,
        groups: int = 4,
        heads: int = 4,
    ):
        super().__init__()
        self.time_mlp = nn.Sequential(
            TimeEmbedding(time_dim),
            nn.Linear(time_dim, 4 * time_dim),
            Swish(),
            nn.Linear(4 * time_dim, time_dim),
        )
        width, kept = channels[0], [channels[0]]
        self.downs = nn.ModuleList([nn.Conv3d(ci, width, 3, padding=1)])
        for level, wanted in enumerate(channels):
            if level > 0:
                self.downs.append(Resize(width, down=True))
                kept.append(width)
            for _ in range(depth):
                self.downs.append(Stage(width, wanted, time_dim, groups))
                width = wanted
                kept.append(width)

        self.mid = nn.ModuleList([Stage(width, width, time_dim, groups, h) for h in (heads, None)])

        self.ups = nn.ModuleList()
        for level in reversed(range(len(channels))):
            for _ in range(depth + 1):
                self.ups.append(Stage(width + kept.pop(), channels[level], time_dim, groups))
                width = channels[level]
            if level > 0:
                self.ups.append(Resize(width, down=False))
        self.final_conv = Block(width, co, groups)

    def forward(self, x: Volume, t: Int[Tensor, " b"]) -> Volume:
        time = self.time_mlp(t)
        kept = []
        for layer in self.downs:
            x = layer(x, time) if isinstance(layer, Stage) else layer(x)
            kept.append(x)
        for layer in self.mid:
            x = layer(x, time)
        for layer in self.ups:
            if isinstance(layer, Stage):
                x = layer(torch.cat([x, kept.pop()], dim=1), time)
            else:
                x = layer(x)
        return self.final_conv(x)


class Activated(nn.Module):
    """Convolution and LeakyReLU of slope 0.2."""

    def __init__(self, ci: int, co: int, stride: int = 1):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv3d(ci, co, 3, stride=stride, padding=1), nn.LeakyReLU(0.2)
        )

    def forward(self, x: Volume) -> Volume:
        return self.block(x)


class Named(nn.Module):
    """A layer one level deeper in the names."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Volume) -> Volume:
        return self.block(x)


class Up(nn.Module):
    """Twice the size, beside what the encoder kept; then a convolution over both."""

    def __init__(self, ci: int, kept: int, co: int):
        super().__init__()
        self.upconv = nn.ConvTranspose3d(ci, ci, 3, stride=2, padding=1, output_padding=1)
        self.block = Activated(kept + ci, co)

    def forward(self, x: Volume, kept: Volume) -> Volume:
        return self.block(torch.cat([kept, self.upconv(x)], dim=1))


class DeformationNet(nn.Module):
    """cat(S, code) (b 2 d h w) -> (S's image warped (b 1 d h w), flow in voxels (b 3 d h w)).

    S is in [-1, 1], the warped image in [0, 1]. `channels` are the encoder's.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 32, 32, 32)):
        super().__init__()
        self.halvings = len(channels) - 1
        narrow = channels[0] // 2
        self.inconv = Named(Activated(2, channels[0]))
        for i in range(1, self.halvings + 1):
            down = Activated(channels[i - 1], channels[i], stride=2)
            self.add_module(f"downconv{i}", Named(down))
        for i in range(1, self.halvings):
            below, stage = self.halvings + 1 - i, self.halvings - i
            up = Up(channels[below], channels[stage], channels[stage])
            self.add_module(f"upconv{i}", up)
        self.keepblock = Activated(channels[1], narrow)
        self.add_module(f"upconv{self.halvings}", Up(narrow, channels[0], narrow))
        self.outconv = Named(nn.Conv3d(narrow, 3, 3, padding=1))

    def forward(self, x: Float[Tensor, "b 2 d h w"]) -> tuple[Volume, Float[Tensor, "b 3 d h w"]]:
        source, kept = x[:, :1], []
        x = self.inconv(x)
        for i in range(1, self.halvings + 1):
            kept.append(x)
            x = self.get_submodule(f"downconv{i}")(x)
        for i in range(1, self.halvings + 1):
            if i == self.halvings:
                x = self.keepblock(x)
            x = self.get_submodule(f"upconv{i}")(x, kept.pop())
        flow = self.outconv(x)
        return warp((source + 1) / 2, flow), flow


def warp(image: Volume, flow: Float[Tensor, "b 3 d h w"]) -> Volume:
    """warped(x) = image(x + flow(x)), trilinear, on the image with one voxel of zeros around it;
    zero beyond that."""
    batch, _, *size = image.shape
    padded = F.pad(image, (1,) * 6)
    sides = []
    for axis, n in enumerate(size):
        shape = [1, 1, 1]
        shape[axis] = n
        grid = torch.arange(n, dtype=flow.dtype, device=flow.device).view(shape)
        at = (flow[:, axis] + grid + 1).clamp(0, n + 1)
        low = at.detach().floor().clamp(max=n)
        sides.append(((low.long(), 1 - (at - low)), (low.long() + 1, at - low)))
    example = torch.arange(batch, device=image.device).view(-1, 1, 1, 1)
    out = torch.zeros_like(image)
    for (d, in_d), (h, in_h), (w, in_w) in product(*sides):
        values = padded.movedim(1, -1)[example, d, h, w]  # (b d h w c)
        out = out + values.movedim(-1, 1) * (in_d * in_h * in_w)[:, None]
    return out


class DeformableDiffusion(nn.Module):
    """Both networks and the schedule's constants, named as in the public code's checkpoints."""

    def __init__(
        self,
        denoise_fn: nn.Module | None = None,
        field_fn: nn.Module | None = None,
        *,
        schedule: str = "linear",
        steps: int = 2000,
        beta_start: float = 1e-6,
        beta_end: float = 1e-2,
    ):
        super().__init__()
        self.denoise_fn = denoise_fn or UNet()
        self.field_fn = field_fn or DeformationNet()
        for name, values in buffers(schedule, steps, beta_start, beta_end).items():
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32))

    def code(self, ed: Volume, es: Volume, x_t: Volume, t: Int[Tensor, " b"]) -> Volume:
        """Estimate of the noise in x_t; images (b 1 d h w) in [-1, 1]."""
        return self.denoise_fn(torch.cat([ed, es, x_t], dim=1), t)
