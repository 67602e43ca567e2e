"""MSTG-direct: frames come from reverse diffusion, given ED and ES, other conditions, or none."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mstg_jax.config import Condition, DiffusionConfig, DirectConfig, ModelConfig
from mstg_jax.diffusion.draws import Keys, apart, chance, level_and_noise
from mstg_jax.diffusion.hybrid import variational
from mstg_jax.diffusion.learned import learned_level, learned_table
from mstg_jax.diffusion.likelihood import bound, quantised
from mstg_jax.diffusion.paths import make_path
from mstg_jax.diffusion.process import Level, as_input, q_sample, target, to_x0_eps
from mstg_jax.diffusion.samplers import reverse_diffusion, transitions
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Batch, Ends, Generated, Method, every_axis
from mstg_jax.methods.blocks import by_blocks, fitting, one_of_each
from mstg_jax.models.conditions import Known, nothing
from mstg_jax.models.frames import FrameDenoiser, made_channels
from mstg_jax.shapes import Features

Losses = tuple[Float[Array, ""], dict[str, Float[Array, ""]]]


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

    def build(self, rng: np.random.Generator) -> Any:
        return FrameDenoiser(self.model, self.diffusion, self.direct, rng=rng)

    def loss(self, model: Any, batch: Batch, keys: Keys) -> Losses:
        """Mean squared error of what the denoiser predicts; with variance learned, the hybrid loss
        of Improved DDPM; with schedule learned, the bound in bits per voxel of VDM.

        Over the voxels of the frames that there are, and whose labels are known.
        """
        config = self.diffusion
        keys_known, keys_noise = apart(keys, 2)
        x0, weight = self._data(batch)
        known, weight = self._known(batch, keys_known, weight)
        if self.direct.in_blocks:
            keys_noise, keys_block = apart(keys_noise, 2)
            block = fitting(self.direct.block, batch["ed"].shape[1:4])
            (x0, weight), known = one_of_each(keys_block, (x0, weight), known, block)

        def mean(values: Features) -> Float[Array, ""]:
            """Of each example, so that examples count alike on any number of devices."""
            axes = tuple(range(1, values.ndim))
            count = jnp.maximum(jnp.sum(weight, axes), 1.0)
            return jnp.mean(jnp.sum(weight * values, axes) / count)

        if config.schedule == "learned":
            return self._bits(model, x0, known, keys_noise)
        level, noise = level_and_noise(keys_noise, x0.shape[1:], make_path(config).draw)
        x_t = q_sample(level, x0, noise)
        predicted, share = self.predict(model, x_t, known, level)
        error = mean(jnp.square(predicted - target(level, x0, noise, config.prediction)))
        if share is None:
            return error, {"noise": error}
        found, _ = to_x0_eps(level, jax.lax.stop_gradient(predicted), x_t, config.prediction)
        schedule = make_schedule(config)
        bits = mean(variational(schedule, level.time, x0, jnp.clip(found, -1, 1), share))
        # The paper's weight, 0.001, of the sum over the steps, of which `bits` is the mean.
        return error + 1e-3 * config.steps * bits, {"noise": error, "bits": bits}

    def _data(self, batch: Batch) -> tuple[Features, Features]:
        """What is made, in [-1, 1], and where it is known."""
        frames = 2 * batch["frames"] - 1
        if "labels" not in self.direct.makes:
            return frames, jnp.ones_like(frames)
        labels = batch["labels"]
        structures = [2 * (labels == i).astype(frames.dtype) - 1 for i in (1, 2, 3)]
        at = (labels != 255).astype(frames.dtype)
        x0 = jnp.concatenate([frames, *(at * x for x in structures)], axis=-1)
        return x0, jnp.concatenate([jnp.ones_like(frames), at, at, at], axis=-1)

    def _known(self, batch: Batch, keys: Keys, weight: Features) -> tuple[Known, Features]:
        """What training gives of the conditions, and `weight` where there are frames."""
        direct, gammas = self.direct, batch["gammas"]
        keys_given, keys_length, keys_at = apart(keys, 3)
        known = nothing(gammas, batch["frames"].shape[2:5], direct)._replace(
            ed=batch["ed"], es=batch["es"], keys=batch["frames"], given=dropped(direct, keys_given)
        )
        if "labels" in batch:
            own = {name: batch[name] for name in ("labels", "group", "ef")}
            known = known._replace(**own)
        if "keys" in direct.given:

            def some(key: Array) -> Array:
                """Of a number of frames that is drawn first."""
                share, each = jax.random.split(key)
                drawn = jax.random.uniform(each, gammas.shape[1:])
                return drawn < jax.random.uniform(share)

            known = known._replace(keys_at=jax.vmap(some)(keys_at))
        if direct.mixed:

            def lengths(key: Array) -> Array:
                """Any number of frames, any of them."""
                length, which = jax.random.split(key)
                ranks = jnp.argsort(jax.random.uniform(which, gammas.shape[1:]))
                return ranks <= jax.random.randint(length, (), 0, gammas.shape[1])

            known = known._replace(here=jax.vmap(lengths)(keys_length))
            weight = weight * known.here.astype(weight.dtype)[:, :, None, None, None, None]
        return known, weight

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
        where lengths are mixed, is told so."""
        batch, count = gammas.shape
        size = ends.ed.shape[1:4]
        mixed = self.direct.mixed
        group = self.diffusion.frames if mixed else min(self.diffusion.frames, count)
        padded = jnp.pad(gammas, [(0, 0), (0, -count % group)], mode="edge")
        groups = jnp.moveaxis(padded.reshape(batch, -1, group), 1, 0)

        def draw(at: tuple[Array, Float[Array, "b f"]]) -> Features:
            number, wanted = at
            places = number * group + jnp.arange(group)
            here = jnp.broadcast_to((places < count) | (not mixed), wanted.shape)
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
        config, (x0, weight) = self.diffusion, self._data(batch)
        known, weight = self._known(batch, key[None], weight)
        known = known._replace(given=jax.tree.map(jnp.ones_like, known.given))
        table = self._table(model, replace(config, sampler="ddim", eta=0.0, variance="posterior"))

        def at(row: tuple[Array, Array, Array, Array]) -> Float[Array, ""]:
            number, *values = row
            level = Level(*(jnp.full(len(x0), value) for value in values))
            noise = jax.random.normal(jax.random.fold_in(key, number), x0.shape)
            x_t = q_sample(level, x0, noise)
            predicted, _ = self.predict(model, x_t, known, level)
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
        if self.direct.mixed:
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


def dropped(config: DirectConfig, keys: Keys) -> dict[str, Bool[Array, " b"]]:
    """Which conditions training gives: each left out in a share, and all together in a share."""
    names: tuple[Condition, ...] = config.given
    *own, common = apart(keys, len(names) + 1)
    none = chance(common, config.drop)
    return {name: ~chance(key, config.drop) & ~none for name, key in zip(names, own, strict=True)}
