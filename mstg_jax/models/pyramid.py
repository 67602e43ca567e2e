"""Motion between two images, from coarse to fine: their features, and the flows that align them."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.models.init import he, zeros
from mstg_jax.models.layers import Conv3d, Linear
from mstg_jax.models.plan import Plan
from mstg_jax.models.rescale import Factor, enlarged, gathered, mean_of_blocks
from mstg_jax.models.warping import correlation, moved
from mstg_jax.shapes import Image, Stage, Volume

SLOPE = 0.1
FLOW_UNIT = 4.0
"""Voxels of displacement that networks see as 1."""
Context = Float[Array, "b n"]


def activate(x: Volume) -> Volume:
    return nnx.leaky_relu(x, SLOPE)


class Block(nnx.Module):
    """x + conv(activate(conv(activate(x)))), at first x itself."""

    def __init__(self, channels: int, *, flat: bool, rng: np.random.Generator):
        self.first = Conv3d(channels, channels, flat=flat, init=he, rng=rng)
        self.second = Conv3d(channels, channels, flat=True, init=zeros, rng=rng)

    def __call__(self, x: Volume) -> Volume:
        return x + self.second(activate(self.first(activate(x))))


class Entry(nnx.Module):
    """A convolution over several features side by side, moved by the context."""

    def __init__(self, ci: int, co: int, context: int, *, flat: bool, rng: np.random.Generator):
        self.conv = Conv3d(ci, co, flat=flat, init=he, rng=rng)
        self.context = Linear(context, co, init=zeros, rng=rng)

    def __call__(self, parts: Sequence[Stage], context: Context) -> Stage:
        x = self.conv(jnp.concatenate(parts, axis=-1))
        return activate(x + self.context(context)[:, None, None, None, :])


class Encoder(nnx.Module):
    """An image in [0, 1] (b d h w 1) -> its features at each of the plan's stages, finest first."""

    def __init__(self, channels: tuple[int, ...], plan: Plan, *, rng: np.random.Generator):
        self.factors = plan.factors
        self.stem = Conv3d(int(np.prod(plan.factors[0])), channels[0], flat=True, init=he, rng=rng)
        self.down = nnx.List(
            [
                Linear(int(np.prod(factor)) * before, after, init=he, rng=rng)
                for factor, (before, after) in zip(
                    plan.factors[1:], pairwise(channels), strict=True
                )
            ]
        )
        self.blocks = nnx.List(
            [Block(c, flat=flat, rng=rng) for c, flat in zip(channels, plan.flat, strict=True)]
        )

    def __call__(self, image: Image) -> list[Stage]:
        x = activate(self.stem(gathered(2 * image - 1, self.factors[0])))
        found = [self.blocks[0](x)]
        for factor, down, block in zip(self.factors[1:], self.down, self.blocks[1:], strict=True):
            found.append(block(activate(down(gathered(found[-1], factor)))))
        return found


class Level(nnx.Module):
    """What a resolution adds to the flows."""

    def __init__(
        self,
        channels: int,
        others: int,
        context: int,
        *,
        axes: int,
        radius: int,
        bilateral: bool,
        flat: bool,
        rng: np.random.Generator,
    ):
        self.axes, self.radius, self.bilateral = axes, radius, bilateral
        seen = 2 * channels + 2 * axes + others + ((2 * radius + 1) ** 2 if radius else 0)
        self.entry = Entry(seen, channels, context, flat=flat, rng=rng)
        self.blocks = nnx.List([Block(channels, flat=flat, rng=rng) for _ in range(2)])
        self.out = Conv3d(channels, (2 if bilateral else 1) * axes, flat=True, init=zeros, rng=rng)

    def __call__(
        self,
        ends: tuple[Stage, Stage],
        flows: tuple[Stage, Stage],
        others: Sequence[Stage],
        context: Context,
        s: Float[Array, "b 1 1 1 1"],
    ) -> tuple[Stage, tuple[Stage, Stage]]:
        """The level's features, and the flows (voxels of this level) of both ends."""
        a, b = (moved(x, flow) for x, flow in zip(ends, flows, strict=True))
        parts = [a, b, *(flow / FLOW_UNIT for flow in flows), *others]
        if self.radius:
            parts.append(correlation(a, b, self.radius))
        x = self.entry(parts, context)
        for block in self.blocks:
            x = block(x)
        found = self.out(x)
        straight, bent = found[..., : self.axes], found[..., self.axes :]
        if not self.bilateral:
            bent = jnp.zeros_like(straight)
        first, last = flows
        return x, (first + s * (straight + bent), last - (1 - s) * (straight - bent))


class Pyramid(nnx.Module):
    """Flows of both ends to the moment s, from the coarsest stage to the finest.

    At s each end is moved by its own share of one displacement u, x + s u and x - (1 - s) u; if
    `bilateral`, either may leave that line.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        codes: Sequence[int],
        context: int,
        plan: Plan,
        *,
        axes: int,
        radius: int,
        bilateral: bool,
        rng: np.random.Generator,
    ):
        self.factors, self.axes = plan.factors, axes
        above = (*channels[1:], 0)
        self.levels = nnx.List(
            [
                Level(
                    c,
                    above[i] + codes[i],
                    context,
                    axes=axes,
                    radius=max(0, radius - (i == 0)),
                    bilateral=bilateral,
                    flat=plan.flat[i],
                    rng=rng,
                )
                for i, c in enumerate(channels)
            ]
        )

    def __call__(
        self,
        ends: tuple[list[Stage], list[Stage]],
        codes: Sequence[Stage | None],
        context: Context,
        s: Float[Array, "b 1 1 1 1"],
    ) -> tuple[list[Stage], list[tuple[Stage, Stage]]]:
        """Features and flows of every stage, finest first."""
        features: list[Stage] = []
        flows: list[tuple[Stage, Stage]] = []
        for i in reversed(range(len(self.levels))):
            a, b, code = ends[0][i], ends[1][i], codes[i]
            others = [] if code is None else [code]
            still = jnp.zeros((*a.shape[:-1], self.axes), a.dtype)
            flow = still, still
            if flows:
                factor, (one, other) = self.factors[i + 1], flows[0]
                flow = scaled(one, factor), scaled(other, factor)
                others.append(enlarged(features[0], factor))
            x, flow = self.levels[i]((a, b), flow, others, context, s)
            features.insert(0, x)
            flows.insert(0, flow)
        return features, flows


def scaled(flow: Volume, factor: Factor) -> Stage:
    """A flow in voxels on a grid that is finer by `factor`."""
    by = jnp.asarray(factor[3 - flow.shape[-1] :], flow.dtype)[None, None, None, None]
    return enlarged(flow, factor) * by


def reduced(flow: Volume, factor: Factor) -> Stage:
    """A flow in voxels on a grid that is coarser by `factor`."""
    by = jnp.asarray(factor[3 - flow.shape[-1] :], flow.dtype)[None, None, None, None]
    return mean_of_blocks(flow, factor) / by
