"""The MSTG module: local features by convolution, global context by Mamba, joined and rebuilt."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import BranchName, ModelConfig, SettingsError
from mstg_jax.models.init import zeros
from mstg_jax.models.layers import Conv3d, GroupNorm, Linear, LinearAttention, ResidualBlock
from mstg_jax.models.mamba import Mamba
from mstg_jax.models.orders import Walk, walks
from mstg_jax.models.pairs import joined, parted
from mstg_jax.models.recompute import recomputed
from mstg_jax.models.rescale import Factor, enlarged, mean_of_blocks
from mstg_jax.shapes import Features, Tokens


class MSTG(nnx.Module):
    """x (b f d h w ci), time (b dim) -> (b f d h w co); without a mixer, DDM's residual block."""

    def __init__(
        self,
        ci: int,
        co: int,
        config: ModelConfig,
        *,
        mixer: bool,
        flat: bool = False,
        pool: Factor = (1, 1, 1),
        rng: np.random.Generator,
    ):
        self.local = ResidualBlock(
            ci, co, time_dim=config.time_dim, groups=config.groups, flat=flat, rng=rng
        )
        self.mixer = make_mixer(co, config, flat=flat, pool=pool, rng=rng) if mixer else None

    def __call__(self, x: Features, time: Float[Array, "b dim"]) -> Float[Array, "b f d h w co"]:
        local = self.local(x, time)
        return local if self.mixer is None else self.mixer(local)


def make_mixer(
    channels: int,
    config: ModelConfig,
    *,
    flat: bool = False,
    pool: Factor = (1, 1, 1),
    rng: np.random.Generator,
) -> nnx.Module | None:
    """The global mixer that the configuration names."""
    if config.mixer == "attention":
        return LinearAttention(channels, heads=config.heads, groups=config.groups, rng=rng)
    if config.mixer == "mamba":
        return MambaMixer(channels, config, flat=flat, pool=pool, rng=rng)
    return None


class MambaMixer(nnx.Module):
    """Serialise, scan along each branch's order, fuse by a gate, compress, rebuild, add the input.

    pool: voxels along d, h and w of which the scan sees the mean.

    The branches share the channels. The last convolution starts at zero, so that a new module is
    its local part.
    """

    def __init__(
        self,
        channels: int,
        config: ModelConfig,
        *,
        flat: bool = False,
        pool: Factor = (1, 1, 1),
        rng: np.random.Generator,
    ):
        if not config.branches or channels % len(config.branches):
            raise SettingsError(
                f"{len(config.branches)} branches do not divide {channels} channels: "
                "choose model.branches and model.channels that fit"
            )
        self.config, self.pool = config, pool
        width = channels // len(config.branches)
        self.norm = GroupNorm(channels, config.groups)
        self.branches = nnx.List([Branch(width, kind, config, rng=rng) for kind in config.branches])
        self.mamba = Mamba(
            width,
            count=sum(branch.blocks for branch in self.branches),
            d_state=config.d_state,
            d_conv=config.d_conv,
            expand=config.expand,
            scan=config.scan,
            rng=rng,
        )
        self.gate = Linear(channels, channels, rng=rng) if config.gate else None
        self.linear = Linear(channels, channels, rng=rng) if config.linear else None
        self.rebuild = Conv3d(channels, channels, flat=flat, init=zeros, rng=rng)

    def __call__(self, x: Features) -> Features:
        y = self.norm(x)
        if self.pool != (1, 1, 1):
            y = by_volume(partial(mean_of_blocks, factor=self.pool), y)
        y = self._mixed(y)
        if self.gate is not None:
            y = nnx.sigmoid(self.gate(y)) * y
        if self.linear is not None:
            y = self.linear(y)
        if self.pool != (1, 1, 1):
            y = by_volume(partial(enlarged, factor=self.pool), y)
        y = self.rebuild(y)
        return x + y if self.config.residual else y

    def _mixed(self, x: Features) -> Features:
        subsets = jnp.split(x, len(self.branches), axis=-1)
        pairs = list(zip(self.branches, subsets, strict=True))
        sequences = [tokens for branch, subset in pairs for tokens in branch.serialise(subset)]
        if self.config.bidirectional and self.config.shared_directions:
            # Directions as examples of their own, which the same weights meet.
            there, back = (jnp.concatenate(sequences[i::2], axis=-1) for i in (0, 1))
            both = parted(self._scanned(joined(there, back)))
            count = len(sequences) // 2
            ways = [jnp.split(mixed, count, axis=-1) for mixed in both]
            parts = (tokens for pair in zip(*ways, strict=True) for tokens in pair)
        else:
            mixed = self._scanned(jnp.concatenate(sequences, axis=-1))
            parts = iter(jnp.split(mixed, len(sequences), axis=-1))
        return jnp.concatenate([b.restore(parts, subset.shape) for b, subset in pairs], axis=-1)

    def _scanned(self, tokens: Tokens) -> Tokens:
        again = self.config.remat in ("scans", "all")
        return recomputed(self.mamba, tokens) if again else self.mamba(tokens)


def by_volume(function: Callable[[Array], Array], x: Features) -> Float[Array, "b f e i v c"]:
    """function of the volumes (b d h w c), with the frames beside the examples."""
    y = function(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])


class Branch(nnx.Module):
    """One branch's channels: a transform, channel attention, and the way to sequences and back."""

    def __init__(
        self, width: int, kind: BranchName, config: ModelConfig, *, rng: np.random.Generator
    ):
        self.kind: BranchName = kind
        self.order = config.spatial_order if kind == "spatial" else config.temporal_order
        self.bidirectional = config.bidirectional
        directions = 2 if config.bidirectional and not config.shared_directions else 1
        self.blocks = (3 if self.order == "triaxis" else 1) * directions
        self.transform = Linear(width, width, rng=rng)
        self.attention = ChannelAttention(width, rng=rng) if config.branch_attention else None

    def serialise(self, x: Features) -> list[Tokens]:
        """Each walk forwards, then backwards."""
        x = nnx.silu(self.transform(x))
        if self.attention is not None:
            x = self.attention(x)
        forward = [walk.serialise(x) for walk in self._walks(x.shape)]
        return [s for f in forward for s in ((f, f[:, ::-1]) if self.bidirectional else (f,))]

    def restore(self, sequences: Iterator[Tokens], shape: tuple[int, ...]) -> Features:
        """Back to (b f d h w c): the mean over the walks of the sum over the directions."""
        walked = self._walks(shape)
        total = jnp.zeros(shape, self.transform.kernel.dtype)
        for walk in walked:
            tokens = next(sequences)
            if self.bidirectional:
                tokens = tokens + next(sequences)[:, ::-1]
            total = total + walk.restore(tokens, shape)
        return total / len(walked)

    def _walks(self, shape: tuple[int, ...]) -> tuple[Walk, ...]:
        return walks(self.order, self.kind, (shape[1], shape[2], shape[3], shape[4]))


class ChannelAttention(nnx.Module):
    """Squeeze and excite (Hu et al. 2018): channels weighted by their mean over all voxels.

    SiLU, where the source has ReLU: of the few hidden units here all may start switched off.
    """

    def __init__(self, channels: int, *, rng: np.random.Generator):
        hidden = max(4, channels // 2)
        self.squeeze = Linear(channels, hidden, rng=rng)
        self.excite = Linear(hidden, channels, rng=rng)

    def __call__(self, x: Features) -> Features:
        weights = nnx.sigmoid(self.excite(nnx.silu(self.squeeze(x.mean((1, 2, 3, 4))))))
        return x * weights[:, None, None, None, None, :]
