"""The network that moves two frames to a moment between them, and makes that moment's frame."""

from typing import NamedTuple

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import ModelConfig, MotionConfig
from mstg_jax.models.denoiser import Denoiser
from mstg_jax.models.init import he, zeros
from mstg_jax.models.layers import Linear
from mstg_jax.models.pairs import joined, parted
from mstg_jax.models.plan import Plan
from mstg_jax.models.pyramid import Encoder, Pyramid, reduced, scaled
from mstg_jax.models.rescale import gathered
from mstg_jax.models.synthesis import Synthesis
from mstg_jax.models.warping import moved
from mstg_jax.shapes import Flow, Image, Stage, Steps

BEND_UNIT = 0.1
"""Second difference, of the range of intensities, that networks see as 1."""
COURSE_WIDTH = 16
LOG_ODDS = 10.0  # at most, of an end in the blend
USUAL_STEPS = 10.0
"""Frames between two ends that networks see as 0, in octaves."""


class Pair(NamedTuple):
    """Two ends as the network knows them, once for all moments between them."""

    ends: tuple[Image, Image]
    features: tuple[list[Stage], list[Stage]]
    codes: list[Stage | None]
    span: Float[Array, "b 2"]
    bend: Float[Array, "b d h w 2"] | None
    course: Float[Array, "b 2"] | None


class Flows(NamedTuple):
    """The way of both ends to a moment, s in the course of the motion.

    ends: from the first and from the last at full resolution, voxels (b d h w 2), or 3 where they
    leave the plane; stages: the same at each stage of the pyramid, finest first, in its own voxels;
    features: of the finest stage.
    """

    s: Float[Array, " b"]
    ends: tuple[Stage, Stage]
    stages: list[tuple[Stage, Stage]]
    features: Stage


class Motion(NamedTuple):
    """A moment: its frame, both ends moved there, their linear blend, and their flows (voxels)."""

    frame: Image
    first: Image
    last: Image
    blend: Image
    from_first: Flow
    from_last: Flow


class Course(nnx.Module):
    """What all of a patient's images and the span say of the pace: two logarithms, at first 0."""

    def __init__(self, channels: int, *, rng: np.random.Generator):
        self.hidden = Linear(channels + 2, COURSE_WIDTH, init=he, rng=rng)
        self.out = Linear(COURSE_WIDTH, 2, init=zeros, rng=rng)

    def __call__(self, code: Float[Array, "b c"], span: Float[Array, "b 2"]) -> Float[Array, "b 2"]:
        return self.out(nnx.silu(self.hidden(jnp.concatenate([code, span], axis=-1))))


class BetweenNet(nnx.Module):
    """Images are (b d h w 1) in [0, 1]."""

    def __init__(
        self, config: ModelConfig, motion: MotionConfig, plan: Plan, *, rng: np.random.Generator
    ):
        channels, context = motion.channels, 4
        axes, stages = 2 if motion.in_plane else 3, len(channels)
        block, self.factor = int(np.prod(plan.factors[0])), plan.factors[0]
        self.denoiser = (
            Denoiser(3 * block, block, config, plan=plan.first(len(config.channels)), rng=rng)
            if motion.denoiser
            else None
        )
        self.course = (
            Course(config.channels[-1], rng=rng) if motion.denoiser and motion.time_course else None
        )
        plan = plan.first(stages)
        self.encoder = Encoder(channels, plan, rng=rng)
        self.pyramid = Pyramid(
            channels,
            [*(config.channels if motion.denoiser else ()), *[0] * stages][:stages],
            context,
            plan,
            axes=axes,
            radius=motion.radius,
            bilateral=motion.bilateral,
            rng=rng,
        )
        self.synthesis = (
            Synthesis(
                motion.synthesis_channels,
                channels,
                context,
                plan,
                axes=axes,
                bend=motion.bend,
                rng=rng,
            )
            if motion.synthesis
            else None
        )
        self.bend = motion.bend

    def pair(
        self,
        first: Image,
        last: Image,
        span: Float[Array, "b 2"],
        bend: Float[Array, "b 2 d h w 1"],
        x_t: Image,
        t: Steps,
    ) -> tuple[Pair, Stage | None]:
        """What both ends give, and the denoiser's estimate of the noise in x_t, a noisy `last` in
        [-1, 1], as blocks of voxels on the channels. span, bend: see methods.base.Ends."""
        stages = [parted(x) for x in self.encoder(joined(first, last))]
        features = [a for a, _ in stages], [b for _, b in stages]
        codes: list[Stage | None] = [None] * len(stages)
        noise = course = None
        if self.denoiser is not None:
            seen = jnp.concatenate([2 * first - 1, 2 * last - 1, x_t], axis=-1)
            found = self.denoiser.features(gathered(seen, self.factor)[:, None], t)
            noise = self.denoiser.prediction(found[0])[:, 0]
            codes = [*[x[:, 0] for x in found], *codes][: len(stages)]
            if self.course is not None:
                course = self.course(found[-1].mean((1, 2, 3, 4)), span_context(span))
        bent = jnp.moveaxis(bend[..., 0], 1, -1) / BEND_UNIT if self.bend else None
        return Pair((first, last), features, codes, span, bent, course), noise

    def flows(self, pair: Pair, gamma: Float[Array, " b"]) -> Flows:
        """They vanish at their own end."""
        s = self.progress(pair, gamma)
        features, stages = self.pyramid(
            pair.features, pair.codes, self.context(pair, s), s[:, None, None, None, None]
        )
        first, last = (scaled(flow, self.factor) for flow in stages[0])
        return Flows(s, (first, last), stages, features[0])

    def refined(self, flows: Flows, more: Float[Array, "b d h w 2"]) -> Flows:
        """With a displacement in plane, voxels, of which either end gets its own share."""
        s = flows.s[:, None, None, None, None]
        more = jnp.pad(more, [(0, 0)] * 4 + [(flows.ends[0].shape[-1] - 2, 0)])
        stages, u = [], more
        for (a, b), factor in zip(flows.stages, self.pyramid.factors, strict=True):
            u = reduced(u, factor)
            stages.append((a + s * u, b - (1 - s) * u))
        first, last = flows.ends
        return flows._replace(ends=(first + s * more, last - (1 - s) * more), stages=stages)

    def motion(self, pair: Pair, flows: Flows) -> Motion:
        """Where the flows vanish the frame is that end exactly."""
        wide = flows.s[:, None, None, None, None]
        first, last = (moved(x, f) for x, f in zip(pair.ends, flows.ends, strict=True))
        blend = first + wide * (last - first)
        frame = blend
        if self.synthesis is not None:
            images, context = (first, last, *pair.ends), self.context(pair, flows.s)
            found = self.synthesis(
                images, pair.features, flows.stages, flows.features, context, pair.bend
            )
            odds = jnp.exp(jnp.clip(found[..., :1], -LOG_ODDS, LOG_ODDS))
            weight = wide * odds / (1 - wide + wide * odds)  # of the last; s where it says 0
            rest = found[..., 1:2]
            if pair.bend is not None:
                bent = jnp.sum(found[..., 2:] * pair.bend, axis=-1, keepdims=True)
                rest = rest + BEND_UNIT * bent
            frame = first + weight * (last - first) + 4 * wide * (1 - wide) * rest
        return Motion(frame, first, last, blend, *(in_space(flow) for flow in flows.ends))

    def context(self, pair: Pair, s: Float[Array, " b"]) -> Float[Array, "b 4"]:
        return jnp.concatenate([jnp.stack([s, 1 - s], axis=-1), span_context(pair.span)], axis=-1)

    def progress(self, pair: Pair, gamma: Float[Array, " b"]) -> Float[Array, " b"]:
        """How far the motion is at gamma: 1 - (1 - gamma^a)^b, an S for a, b > 1 (Kumaraswamy
        1980); the identity at first."""
        if pair.course is None:
            return gamma
        a, b = jnp.exp(pair.course[:, 0]), jnp.exp(pair.course[:, 1])
        inside = jnp.clip(gamma, 1e-6, 1 - 1e-6)  # the powers' slopes are not finite at the ends
        return jnp.where((gamma > 0) & (gamma < 1), 1 - (1 - inside**a) ** b, gamma)


def span_context(span: Float[Array, "b 2"]) -> Float[Array, "b 2"]:
    """The span as networks see it: its share of the cycle, and its steps in octaves."""
    return jnp.stack([span[:, 0], jnp.log2(span[:, 1] / USUAL_STEPS)], axis=-1)


def in_space(flow: Float[Array, "b d h w k"]) -> Flow:
    """With no displacement along d where the flow lies in plane."""
    missing = 3 - flow.shape[-1]
    return jnp.pad(flow, [(0, 0)] * 4 + [(missing, 0)]) if missing else flow
