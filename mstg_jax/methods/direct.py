"""MSTG-direct: the frames come from reverse diffusion, conditioned on ED, ES and gamma."""

from dataclasses import dataclass

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import DiffusionConfig, ModelConfig
from mstg_jax.diffusion.draws import Keys, step_and_noise
from mstg_jax.diffusion.process import q_sample, target
from mstg_jax.diffusion.samplers import reverse_diffusion
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Batch, Ends, Frames, Generated, Method, conditions, every_axis
from mstg_jax.models.denoiser import Denoiser
from mstg_jax.shapes import Image, Steps


@dataclass(frozen=True)
class Direct(Method):
    """`diffusion.frames` frames are denoised together: the temporal branch runs along them."""

    model: ModelConfig
    diffusion: DiffusionConfig

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(len(self.model.channels) - 1)

    @property
    def frames(self) -> int:
        return self.diffusion.frames

    def build(self, rng: np.random.Generator) -> Denoiser:
        return Denoiser(4, 1, self.model, rng=rng)

    def loss(
        self, model: Denoiser, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean squared error of what the denoiser predicts: eps, x0 or v."""
        schedule = make_schedule(self.diffusion)
        frames = 2 * batch["frames"] - 1
        t, noise = step_and_noise(keys, frames.shape[1:], self.diffusion.steps)
        x_t = q_sample(schedule, frames, t, noise)
        predicted = _predict(model, x_t, t, batch["ed"], batch["es"], batch["gammas"])
        wanted = target(schedule, frames, noise, t, self.diffusion.prediction)
        error = jnp.mean(jnp.square(predicted - wanted))
        return error, {"noise": error}

    def generate(
        self,
        model: Denoiser,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        """Groups of `diffusion.frames`; a last group that is too short repeats its last gamma."""
        config, (batch, count) = self.diffusion, gammas.shape
        shape = ends.ed.shape[1:]
        with jax.ensure_compile_time_eval():  # the sampler's steps depend on its values
            schedule = make_schedule(config)
        group = min(config.frames, count)
        padded = jnp.pad(gammas, [(0, 0), (0, -count % group)], mode="edge")
        groups = jnp.moveaxis(padded.reshape(batch, -1, group), 1, 0)

        def draw(at: tuple[Array, Float[Array, "b f"]]) -> Frames:
            number, wanted = at
            key_start, key_steps = jax.random.split(jax.random.fold_in(key, number))
            return reverse_diffusion(
                schedule,
                lambda x_t, t: _predict(model, x_t, t, ends.ed, ends.es, wanted),
                jax.random.normal(key_start, (batch, group, *shape)),
                key_steps,
                kind=config.prediction,
                sampler=config.sampler,
                steps=config.sampler_steps,
                eta=config.eta,
            )

        drawn = jax.lax.map(draw, (jnp.arange(len(groups)), groups))
        frames = jnp.moveaxis(drawn, 0, 1).reshape(batch, -1, *shape)[:, :count]
        return Generated((frames + 1) / 2, None)


def _predict(
    model: Denoiser, x_t: Frames, t: Steps, ed: Image, es: Image, gammas: Float[Array, "b f"]
) -> Frames:
    """Every frame sees its noisy self and its conditions."""
    return model(jnp.concatenate([x_t, conditions(ed, es, gammas)], axis=-1), t)
