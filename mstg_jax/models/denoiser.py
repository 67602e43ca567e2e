"""The denoising U-Net: stages of MSTG modules around DDM's linear attention."""

from dataclasses import replace
from functools import partial

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import ModelConfig
from mstg_jax.models.layers import (
    Conv3d,
    Downsample,
    GroupNorm,
    LinearAttention,
    Spread,
    TimeEmbedding,
)
from mstg_jax.models.mstg import MSTG
from mstg_jax.models.plan import Plan, alike
from mstg_jax.models.recompute import recomputed
from mstg_jax.shapes import Features, Image, Steps


class Denoiser(nnx.Module):
    """x (b f d h w ci), t (b,) -> (b f d h w co).

    d, h and w must be multiples of 2^(stages - 1), or of what `plan` halves after its first stage,
    which this network takes as full resolution. With mixer "none", DDM's channels and no plan this
    is DDM's network, parameter for parameter. A subclass may have another middle.
    """

    def __init__(
        self,
        ci: int,
        co: int,
        config: ModelConfig,
        *,
        plan: Plan | None = None,
        rng: np.random.Generator,
    ):
        channels, last = config.channels, len(config.channels) - 1
        self.config, self.plan = config, plan or alike(len(channels))
        module = partial(self.new_module, rng=rng)
        self.time = TimeEmbedding(config.time_dim, rng=rng)
        self.stem = Conv3d(ci, channels[0], flat=self.plan.flat[0], rng=rng)
        width, kept = channels[0], [channels[0]]
        encoder, down = [], []
        for stage, co_stage in enumerate(channels):
            modules = []
            for _ in range(config.depth):
                modules.append(module(width, co_stage, stage))
                width = co_stage
                kept.append(width)
            encoder.append(nnx.List(modules))
            if stage < last:
                factor = self.plan.factors[stage + 1]
                down.append(Downsample(width, config.pooling, factor=factor, rng=rng))
                kept.append(width)
        self.encoder, self.down = nnx.List(encoder), nnx.List(down)

        self.new_middle(width, rng=rng)

        decoder, up = [], []
        for stage in reversed(range(len(channels))):
            modules = []
            for _ in range(config.depth + 1):
                skipped = kept.pop() if config.skips else 0
                modules.append(module(width + skipped, channels[stage], stage))
                width = channels[stage]
            decoder.append(nnx.List(modules))
            if stage > 0:
                up.append(self.new_upsampling(width, stage, rng=rng))
        self.decoder, self.up = nnx.List(decoder), nnx.List(up)
        self.norm = GroupNorm(width, config.groups)
        self.out = Conv3d(width, co, flat=self.plan.flat[0], rng=rng)

    def __call__(
        self, x: Features, t: Steps, beside: Float[Array, "b dim"] | None = None
    ) -> Float[Array, "b f d h w co"]:
        return self.prediction(self.features(x, t, beside)[0])

    def prediction(self, x: Features) -> Float[Array, "b f d h w co"]:
        return self.out(nnx.silu(self.norm(x)))

    def features(
        self, x: Features, t: Steps, beside: Float[Array, "b dim"] | None = None
    ) -> list[Float[Array, "b f _ _ _ _"]]:
        """What the decoder has at each stage, the finest first. beside: added to the embedding of
        the time."""
        time = self.time(t) if beside is None else self.time(t) + beside
        module = self.run_module
        x = self.stem(x)
        kept = [x]
        for stage, modules in enumerate(self.encoder):
            for m in modules:
                x = module(m, x, time)
                kept.append(x)
            if stage < len(self.down):
                x = self.down[stage](x)
                kept.append(x)

        x = self.run_middle(x, time)

        found: list[Array] = []
        for stage, modules in enumerate(self.decoder):
            for m in modules:
                if self.config.skips:
                    x = jnp.concatenate([x, kept.pop()], axis=-1)
                x = module(m, x, time)
            found.insert(0, x)
            if stage < len(self.up):
                x = self.up[stage](x)
        return found

    def new_module(self, ci: int, co: int, stage: int, *, rng: np.random.Generator) -> MSTG:
        config, mixer = self.config, stage in self.config.mixer_stages
        if config.expand_stages:
            config = replace(config, expand=config.expand_stages[stage])
        pool = self.plan.factors[stage + 1] if stage in config.pooled_stages else (1, 1, 1)
        return MSTG(ci, co, config, mixer=mixer, flat=self.plan.flat[stage], pool=pool, rng=rng)

    def new_upsampling(self, width: int, stage: int, *, rng: np.random.Generator) -> nnx.Module:
        """From a stage to the next finer one."""
        factor = self.plan.factors[stage]
        if factor == (2, 2, 2):
            return Conv3d(width, width, resize="nearest", rng=rng)
        return Spread(width, factor=factor, rng=rng)

    def run_module(
        self, module: MSTG, x: Features, time: Float[Array, "b dim"]
    ) -> Float[Array, "b f d h w co"]:
        again = self.config.remat in ("modules", "all")
        return recomputed(module, x, time) if again else module(x, time)

    def new_middle(self, width: int, *, rng: np.random.Generator) -> None:
        """Two modules around linear attention, on `width` channels."""
        config, last = self.config, len(self.config.channels) - 1
        self.middle = nnx.List([self.new_module(width, width, last, rng=rng) for _ in range(2)])
        self.attention = LinearAttention(width, heads=config.heads, groups=config.groups, rng=rng)

    def run_middle(self, x: Features, time: Float[Array, "b dim"]) -> Features:
        x = self.attention(self.run_module(self.middle[0], x, time))
        return self.run_module(self.middle[1], x, time)


class MotionCoder(nnx.Module):
    """A denoiser of ES, whose estimate drives a motion (DDM). Images are (b d h w 1) in [-1, 1]."""

    def __init__(self, config: ModelConfig, *, rng: np.random.Generator):
        self.denoiser = Denoiser(3, 1, config, rng=rng)

    def code(self, ed: Image, es: Image, x_t: Image, t: Steps) -> Image:
        """The denoiser's estimate of the noise in x_t: also the latent code of the motion."""
        return self.denoiser(jnp.concatenate([ed, es, x_t], axis=-1)[:, None], t)[:, 0]
