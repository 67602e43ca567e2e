"""MSTG-direct: frames come from reverse diffusion, given ED and ES, other conditions, or none."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import DiffusionConfig, DirectConfig, ModelConfig
from mstg_jax.diffusion import importance
from mstg_jax.diffusion.draws import Keys, apart, level_and_noise
from mstg_jax.diffusion.hybrid import variational
from mstg_jax.diffusion.learned import learned_level, learned_table
from mstg_jax.diffusion.likelihood import bound, quantised
from mstg_jax.diffusion.paths import make_path
from mstg_jax.diffusion.process import Level, as_input, q_sample, target, to_x0_eps
from mstg_jax.diffusion.samplers import reverse_diffusion, transitions
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Batch, Ends, Generated, Method, every_axis
from mstg_jax.methods.blocks import by_blocks, fitting, one_of_each
from mstg_jax.methods.given import known_of, made_of
from mstg_jax.models.conditions import Known, nothing
from mstg_jax.models.frames import FrameDenoiser, made_channels
from mstg_jax.shapes import Features

Losses = tuple[Float[Array, ""], dict[str, Any]]


@dataclass(frozen=True)
class Direct(Method):
    """`diffusion.frames` frames are denoised together: the temporal branch runs along them."""

    model: ModelConfig
    diffusion: DiffusionConfig
    direct: DirectConfig = field(default_factory=DirectConfig)
    spread: tuple[float, ...] = field(default=(), kw_only=True)
    """With variance optimal, `unknown` at the sampler's steps; see training/loading.py."""

    block: tuple[int, int, int] | None = field(default=None, kw_only=True)
    """Blocks of sampling, where they are not those of training; see methods/memory.py."""

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(len(self.model.channels) - 1)

    @property
    def frames(self) -> int:
        return self.diffusion.frames

    @property
    def ends(self) -> bool:
        return self.direct.ends

    @property
    def memory(self) -> Any:
        return importance.nothing_seen() if self.diffusion.draw == "importance" else ()

    def remembered(self, memory: Any, seen: Any) -> Any:
        return importance.remembered(memory, seen)

    def build(self, rng: np.random.Generator) -> Any:
        return FrameDenoiser(self.model, self.diffusion, self.direct, rng=rng)

    def loss(self, model: Any, batch: Batch, keys: Keys) -> Losses:
        """Mean squared error of what the denoiser predicts; with variance learned, the hybrid loss
        of Improved DDPM; with schedule learned, the bound in bits per voxel of VDM.

        Over the voxels of the frames that there are, and whose labels are known.
        """
        config = self.diffusion
        keys_known, keys_noise = apart(keys, 2)
        x0, weight = made_of(self.direct, batch)
        known, weight = known_of(self.direct, batch, keys_known, weight)
        if self.direct.in_blocks:
            keys_noise, keys_block = apart(keys_noise, 2)
            block = fitting(self.direct.block, batch["ed"].shape[1:4])
            (x0, weight), known = one_of_each(keys_block, (x0, weight), known, block)

        def means(values: Features) -> Float[Array, " b"]:
            """Of each example, so that examples count alike on any number of devices."""
            axes = tuple(range(1, values.ndim))
            return jnp.sum(weight * values, axes) / jnp.maximum(jnp.sum(weight, axes), 1.0)

        if config.schedule == "learned":
            return self._bits(model, x0, known, keys_noise)
        if config.draw == "importance":
            share = importance.shares(batch["memory"])
            draw = partial(importance.draw, steps=config.steps, share=share)
            (t, span), noise = level_and_noise(keys_noise, x0.shape[1:], draw)
            level, scale = make_schedule(config).at(t), 1 / (importance.BINS * share[span])
        else:
            level, noise = level_and_noise(keys_noise, x0.shape[1:], make_path(config).draw)
            span, scale = None, jnp.ones(len(x0))
        x_t = q_sample(level, x0, noise)
        predicted, share = self.predict(model, x_t, known, level)
        losses = {
            "noise": means(jnp.square(predicted - target(level, x0, noise, config.prediction)))
        }
        total = losses["noise"]
        if share is not None:
            found, _ = to_x0_eps(level, jax.lax.stop_gradient(predicted), x_t, config.prediction)
            schedule = make_schedule(config)
            bits = variational(schedule, level.time, x0, jnp.clip(found, -1, 1), share)
            losses["bits"] = means(bits)
            # The paper's weight, 0.001, of the sum over the steps, of which `bits` is the mean.
            total = total + 1e-3 * config.steps * losses["bits"]
        parts: dict[str, Any] = {name: jnp.mean(scale * x) for name, x in losses.items()}
        if span is not None:
            parts["seen"] = importance.seen(span, jax.lax.stop_gradient(total))
        return jnp.mean(scale * total), parts

    def _bits(self, model: FrameDenoiser, x0: Features, known: Known, keys: Keys) -> Losses:
        assert model.log_snr is not None

        def predict(x_t: Features, level: Level) -> Features:
            predicted, _ = self.predict(model, x_t, known, level)
            return to_x0_eps(level, predicted, x_t, self.diffusion.prediction)[1]

        at = partial(learned_level, config=self.diffusion)
        found = bound(model.log_snr, at, predict, quantised(x0), keys)
        parts = {name: jnp.mean(x) for name, x in found._asdict().items()}
        return sum(parts.values(), jnp.zeros(())), parts

    def generate(
        self, model: Any, ends: Ends, gammas: Float[Array, "b t"], key: PRNGKeyArray
    ) -> Generated:
        """Groups of `diffusion.frames`; a last group that is too short repeats its last gamma or,
        where training had any length, is told so."""
        batch, count = gammas.shape
        size = ends.ed.shape[1:4]
        padded_up = self.direct.any_length
        group = self.diffusion.frames if padded_up else min(self.diffusion.frames, count)
        padded = jnp.pad(gammas, [(0, 0), (0, -count % group)], mode="edge")
        groups = jnp.moveaxis(padded.reshape(batch, -1, group), 1, 0)

        def draw(at: tuple[Array, Float[Array, "b f"]]) -> Features:
            number, wanted = at
            places = number * group + jnp.arange(group)
            here = jnp.broadcast_to((places < count) | (not padded_up), wanted.shape)
            known = nothing(wanted, size, self.direct)
            both = {"ed", "es"} & {*known.given}
            seen = known.given | dict.fromkeys(both, jnp.ones(batch, jnp.bool_))
            known = known._replace(ed=ends.ed, es=ends.es, here=here, given=seen)
            return self.draw(model, known, jax.random.fold_in(key, number))

        drawn = jax.lax.map(draw, (jnp.arange(len(groups)), groups))[..., :1]
        frames = jnp.moveaxis(drawn, 0, 1).reshape(batch, -1, *size, 1)[:, :count]
        return Generated((frames + 1) / 2, None)

    def draw(self, model: Any, known: Known, key: PRNGKeyArray) -> Features:
        """What is made of what is known, in [-1, 1], by reverse diffusion."""
        key_start, key_steps = jax.random.split(key)
        shape = (*known.gammas.shape, *known.ed.shape[1:4], made_channels(self.direct))
        return reverse_diffusion(
            self._table(model),
            lambda x_t, level: self._in_blocks(model, x_t, known, level),
            jax.random.normal(key_start, shape),
            key_steps,
            kind=self.diffusion.prediction,
        )

    def unknown(self, model: Any, batch: Batch, key: PRNGKeyArray) -> Float[Array, " steps"]:
        """Mean over the voxels of (x_0 - its estimate)^2 at each step of the sampler: the variance
        that x_0 has given x_t, where the denoiser is the best there is (Bao et al. 2022)."""
        config, (x0, weight) = self.diffusion, made_of(self.direct, batch)
        known, weight = known_of(self.direct, batch, key[None], weight)
        known = known._replace(given=jax.tree.map(jnp.ones_like, known.given))
        plain = replace(self, direct=replace(self.direct, guidance=1.0))
        table = self._table(model, replace(config, sampler="ddim", eta=0.0, variance="posterior"))

        def at(row: tuple[Array, Array, Array, Array]) -> Float[Array, ""]:
            number, *values = row
            level = Level(*(jnp.full(len(x0), value) for value in values))
            noise = jax.random.normal(jax.random.fold_in(key, number), x0.shape)
            x_t = q_sample(level, x0, noise)
            predicted, _ = plain._in_blocks(model, x_t, known, level)
            found, _ = to_x0_eps(level, predicted, x_t, config.prediction)
            error = jnp.square(x0 - jnp.clip(found, -1, 1))
            return jnp.sum(weight * error) / jnp.sum(weight)

        levels = (jnp.asarray(x, jnp.float32) for x in (table.signal, table.sigma, table.time))
        return jax.lax.map(at, (jnp.arange(len(table.time)), *levels))

    def _table(self, model: Any, config: DiffusionConfig | None = None) -> Any:
        config = config or self.diffusion
        if config.schedule == "learned":
            return learned_table(model.log_snr, config, self.spread or None)
        edges = make_path(config).edges(config.sampler_steps)
        return transitions(edges, config, self.spread or None)

    def _in_blocks(
        self, model: Any, x_t: Features, known: Known, level: Level
    ) -> tuple[Features, Features | None]:
        size = x_t.shape[2:5]
        block = fitting(self.block or self.direct.block, size)
        if block == size:
            return self._guided(model, x_t, known, level)

        def predict(x_t: Features, known: Known) -> Features:
            value, share = self._guided(model, x_t, known, level)
            return value if share is None else jnp.concatenate([value, share], axis=-1)

        made = by_blocks(predict, x_t, known, block)
        value, share = made[..., : x_t.shape[-1]], made[..., x_t.shape[-1] :]
        return value, share if share.shape[-1] else None

    def _guided(
        self, model: Any, x_t: Features, known: Known, level: Level
    ) -> tuple[Features, Features | None]:
        """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598)."""
        scale = self.direct.guidance
        if scale == 1:
            return self.predict(model, x_t, known, level)

        def twice(x: Array, other: Array) -> Array:
            return jnp.concatenate([x, other])

        both = jax.tree.map(twice, known, known.without())
        made, share = self.predict(
            model, twice(x_t, x_t), both, jax.tree.map(lambda x: twice(x, x), level)
        )
        given, free = jnp.split(made, 2)
        return free + scale * (given - free), None if share is None else share[: len(x_t)]

    def predict(
        self, model: Any, x_t: Features, known: Known, level: Level
    ) -> tuple[Features, Features | None]:
        """Every frame sees its noisy self and what is known; the share of the variance, if it is
        learned."""
        seen = as_input(level, x_t, self.diffusion.prediction)
        if self.direct.any_length:
            seen = seen * known.here.astype(seen.dtype)[:, :, None, None, None, None]
        made = self.made(model, seen, level, known)
        if self.diffusion.variance != "learned":
            return made, None
        value, share = jnp.split(made, 2, axis=-1)
        return value, (share + 1) / 2

    def made(
        self, model: Any, seen: Features, level: Level, known: Known
    ) -> Float[Array, "b f d h w co"]:
        """What the network says."""
        return model.given(seen, level.time, known)
