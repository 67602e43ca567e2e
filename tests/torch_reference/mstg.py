"""The MSTG module and the denoiser made of it.

Names follow mstg_jax/models: a `weight` here is a `kernel` there (a `scale` in a GroupNorm), and
block i of `mamba` is row i of the arrays there.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mstg_jax.config import DiffusionConfig, ModelConfig
from torch_reference.ddm import DeformableDiffusion, DeformationNet, TimeEmbedding, attend
from torch_reference.mamba import Mamba
from torch_reference.orders import Sizes, walks

Features = Float[Tensor, "b c f d h w"]
Tokens = Float[Tensor, "b l c"]


class Conv3d(nn.Conv3d):
    """Of each frame on its own, with zeros around; resize "half" or "nearest" as named there."""

    def __init__(self, ci: int, co: int, size: int = 3, resize: str = "keep"):
        super().__init__(ci, co, size, stride=2 if resize == "half" else 1, padding=size // 2)
        self.resize = resize

    def forward(self, x: Features) -> Features:
        frames = x.transpose(1, 2).flatten(0, 1)
        if self.resize == "nearest":
            frames = F.interpolate(frames, scale_factor=2, mode="nearest")
        return super().forward(frames).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class Linear(nn.Linear):
    """Over the channels, axis 1 of (b ci ...)."""

    def forward(self, x: Float[Tensor, "b ci ..."]) -> Float[Tensor, "b co ..."]:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Time(nn.Module):
    """t (b,) -> (b dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.embed = TimeEmbedding(dim)
        self.expand = Linear(dim, 4 * dim)
        self.project = Linear(4 * dim, dim)

    def forward(self, t: Int[Tensor, " b"]) -> Float[Tensor, "b dim"]:
        return self.project(F.silu(self.expand(self.embed(t))))


class ResidualBlock(nn.Module):
    def __init__(self, ci: int, co: int, config: ModelConfig):
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, ci)
        self.conv1 = Conv3d(ci, co)
        self.time = Linear(config.time_dim, co)
        self.norm2 = nn.GroupNorm(config.groups, co)
        self.conv2 = Conv3d(co, co)
        self.skip = Conv3d(ci, co, size=1) if ci != co else nn.Identity()

    def forward(self, x: Features, time: Float[Tensor, "b dim"]) -> Features:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[..., None, None, None, None]
        return self.conv2(F.silu(self.norm2(y))) + self.skip(x)


class LinearAttention(nn.Module):
    """Over the voxels of all frames."""

    def __init__(self, channels: int, config: ModelConfig):
        super().__init__()
        self.heads = config.heads
        self.norm = nn.GroupNorm(config.groups, channels)
        self.qkv = Linear(channels, 3 * channels, bias=False)
        self.out = Linear(channels, channels)

    def forward(self, x: Features) -> Features:
        mixed = attend(self.qkv(self.norm(x)).flatten(2), self.heads)
        return x + self.out(mixed.reshape(x.shape))


class ChannelAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        hidden = max(4, channels // 2)
        self.squeeze = Linear(channels, hidden)
        self.excite = Linear(hidden, channels)

    def forward(self, x: Features) -> Features:
        weights = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3, 4, 5))))))
        return x * weights[..., None, None, None, None]


class Branch(nn.Module):
    """A share of the channels, and the orders in which its voxels become tokens."""

    def __init__(self, width: int, kind: str, config: ModelConfig):
        super().__init__()
        self.kind, self.bidirectional = kind, config.bidirectional
        self.order = config.spatial_order if kind == "spatial" else config.temporal_order
        self.sequences = (3 if self.order == "triaxis" else 1) * (2 if self.bidirectional else 1)
        self.transform = Linear(width, width)
        self.attention = ChannelAttention(width) if config.branch_attention else nn.Identity()

    def serialise(self, x: Features) -> list[Tokens]:
        """Each walk forwards, then backwards."""
        flat = self.attention(F.silu(self.transform(x))).flatten(2).mT
        out = []
        for walk in walks(self.order, self.kind, tuple(x.shape[2:])):
            tokens = flat[:, torch.from_numpy(walk)]
            out += [tokens, tokens.flip(1)] if self.bidirectional else [tokens]
        return out

    def restore(self, sequences: list[Tokens], sizes: Sizes) -> Features:
        """The mean over the walks of the sum over the directions."""
        found = walks(self.order, self.kind, sizes)
        each = len(sequences) // len(found)
        total = 0
        for i, walk in enumerate(found):
            tokens = sequences[i * each]
            if self.bidirectional:
                tokens = tokens + sequences[i * each + 1].flip(1)
            natural = torch.empty_like(tokens)
            natural[:, torch.from_numpy(walk)] = tokens
            total = total + natural
        return (total / len(found)).mT.unflatten(2, sizes)


class MambaMixer(nn.Module):
    def __init__(self, channels: int, config: ModelConfig):
        super().__init__()
        width = channels // len(config.branches)
        self.residual = config.residual
        self.norm = nn.GroupNorm(config.groups, channels)
        self.branches = nn.ModuleList(Branch(width, kind, config) for kind in config.branches)
        sizes = {k: getattr(config, k) for k in ("d_state", "d_conv", "expand")}
        count = sum(branch.sequences for branch in self.branches)
        self.mamba = nn.ModuleList(Mamba(width, **sizes) for _ in range(count))
        self.gate = Linear(channels, channels) if config.gate else None
        self.linear = Linear(channels, channels) if config.linear else nn.Identity()
        self.rebuild = Conv3d(channels, channels)

    def forward(self, x: Features) -> Features:
        blocks, parts = iter(self.mamba), []
        for branch, share in zip(
            self.branches, self.norm(x).chunk(len(self.branches), dim=1), strict=True
        ):
            mixed = [next(blocks)(tokens) for tokens in branch.serialise(share)]
            parts.append(branch.restore(mixed, tuple(x.shape[2:])))
        y = torch.cat(parts, dim=1)
        if self.gate is not None:
            y = torch.sigmoid(self.gate(y)) * y
        y = self.rebuild(self.linear(y))
        return x + y if self.residual else y


class MSTG(nn.Module):
    """x (b ci f d h w), time (b dim) -> (b co f d h w)."""

    def __init__(self, ci: int, co: int, config: ModelConfig, *, mixer: bool):
        super().__init__()
        mixers = {"mamba": MambaMixer, "attention": LinearAttention}
        self.local = ResidualBlock(ci, co, config)
        kind = mixers.get(config.mixer) if mixer else None
        self.mixer = kind(co, config) if kind is not None else nn.Identity()

    def forward(self, x: Features, time: Float[Tensor, "b dim"]) -> Features:
        return self.mixer(self.local(x, time))


class Downsample(nn.Module):
    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.pool = {"average": F.avg_pool3d, "max": F.max_pool3d}.get(kind)
        self.conv = Conv3d(channels, channels, resize="half") if kind == "conv" else None

    def forward(self, x: Features) -> Features:
        return (
            self.conv(x)
            if self.conv is not None
            else self.pool(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        )


class Denoiser(nn.Module):
    """x (b ci f d h w), or (b ci d h w) as one frame, t (b,) -> co channels of the same."""

    def __init__(self, ci: int, co: int, config: ModelConfig):
        super().__init__()
        channels, last, self.skips = config.channels, len(config.channels) - 1, config.skips

        def module(ci: int, co: int, stage: int) -> MSTG:
            return MSTG(ci, co, config, mixer=stage in config.mixer_stages)

        self.time = Time(config.time_dim)
        self.stem = Conv3d(ci, channels[0])
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        width, kept = channels[0], [channels[0]]
        for stage, wanted in enumerate(channels):
            self.encoder.append(nn.ModuleList())
            for _ in range(config.depth):
                self.encoder[-1].append(module(width, wanted, stage))
                width = wanted
                kept.append(width)
            if stage < last:
                self.down.append(Downsample(width, config.pooling))
                kept.append(width)
        self.middle = nn.ModuleList(module(width, width, last) for _ in range(2))
        self.attention = LinearAttention(width, config)
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for stage in reversed(range(last + 1)):
            self.decoder.append(nn.ModuleList())
            for _ in range(config.depth + 1):
                skipped = kept.pop() if self.skips else 0
                self.decoder[-1].append(module(width + skipped, channels[stage], stage))
                width = channels[stage]
            if stage > 0:
                self.up.append(Conv3d(width, width, resize="nearest"))
        self.norm = nn.GroupNorm(config.groups, width)
        self.out = Conv3d(width, co)

    def forward(self, x: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        if x.ndim == 5:
            return self(x[:, :, None], t)[:, :, 0]
        time = self.time(t)
        x = self.stem(x)
        kept = [x]
        for stage, modules in enumerate(self.encoder):
            for module in modules:
                x = module(x, time)
                kept.append(x)
            if stage < len(self.down):
                x = self.down[stage](x)
                kept.append(x)
        x = self.middle[1](self.attention(self.middle[0](x, time)), time)
        for stage, modules in enumerate(self.decoder):
            for module in modules:
                x = module(torch.cat([x, kept.pop()], dim=1) if self.skips else x, time)
            if stage < len(self.up):
                x = self.up[stage](x)
        return self.out(F.silu(self.norm(x)))


def deformable(model: ModelConfig, diffusion: DiffusionConfig) -> DeformableDiffusion:
    """The whole of method `mstg` (or `ddm`, with mixer "none")."""
    return DeformableDiffusion(
        Denoiser(3, 1, model),
        DeformationNet(model.deformation_channels),
        schedule=diffusion.schedule,
        steps=diffusion.steps,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
    )
