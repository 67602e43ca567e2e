"""Between: MSTG with motion from both ends, first the motion, then the frame.

The paper's MSTG (methods/mstg.py) warps ED alone. Here both ends are moved to the frame's own
moment by flows that are found from coarse to fine, each stage aligning what the one before it left
(PWC-Net; Sun et al. 2018, CVPR), and a small network makes the frame of them (Super SloMo; Jiang et
al. 2018, CVPR; UVI-Net; Kim et al. 2024, CVPR). The MSTG denoiser's features tell the flows what
the ends alone do not show. The true frames between the ends supervise all of it, and the labels of
ED and ES the flows. Items are flags of `motion`; frames at gamma 0 and 1 are the ends exactly.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from mstg_jax.config import DiffusionConfig, ModelConfig, MotionConfig, RegisterConfig
from mstg_jax.diffusion.draws import Keys, apart, chance, step_and_noise
from mstg_jax.diffusion.losses import local_ncc, smoothness
from mstg_jax.diffusion.process import q_sample
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Batch, Ends, Generated, Method, by_frame
from mstg_jax.methods.register import displacement
from mstg_jax.models.between import BetweenNet, Motion
from mstg_jax.models.plan import Plan, by_spacing
from mstg_jax.models.rescale import gathered
from mstg_jax.models.symmetry import Symmetry, symmetries
from mstg_jax.models.warping import moved
from mstg_jax.shapes import Flow, Image

AT_END = 0.1  # share of the steps at gamma 1, where the flows alone have to reach the last end
CLEAN = 0.5  # share of the steps in which the denoiser sees that end itself, as when it generates
SMALLEST = 1e-4  # mean squared error of a blend of the ends below which an error counts no more
STRUCTURES = 3  # labels 1, 2, 3


@dataclass(frozen=True)
class Between(Method):
    """spacing: distances of the voxels in mm, (d h w), which decide what the networks halve."""

    model: ModelConfig
    diffusion: DiffusionConfig
    motion: MotionConfig
    registration: RegisterConfig
    spacing: tuple[float, float, float]
    deforms: ClassVar[bool] = True

    @property
    def plan(self) -> Plan:
        stages = len(self.motion.channels)
        if self.motion.denoiser:
            stages = max(stages, len(self.model.channels))
        return by_spacing(self.spacing, stages)

    @property
    def halvings(self) -> tuple[int, int, int]:
        return self.plan.halvings

    def build(self, rng: np.random.Generator) -> BetweenNet:
        return BetweenNet(self.model, self.motion, self.plan, rng=rng)

    def loss(
        self, model: BetweenNet, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Errors of the frame, of the linear blend of the moved ends and of each of these, in units
        of the error of a blend of the ends as they are; then what the flags weigh."""
        config, fov = self.motion, batch["fov"].astype(batch["ed"].dtype)
        keys_end, keys_denoiser = apart(keys, 2)
        first, last = batch["ed"], batch["es"]
        at_end = chance(keys_end, AT_END)
        truth = jnp.where(_wide(at_end), last, batch["frames"][:, 0])
        inside = batch["gammas"][:, 0]
        gamma = jnp.where(at_end, 1.0, inside)

        x_t, t, noise, clean = self._noised(last, keys_denoiser)
        pair, predicted = model.pair(first, last, batch["span"], batch["bend"], x_t, t)
        motion = model.motion(pair, model.flows(pair, gamma))

        def error(image: Image, wanted: Image) -> Float[Array, " b"]:
            return _mean(jnp.square(image - wanted) * fov) / jnp.maximum(_mean(fov), SMALLEST)

        s = _wide(inside)
        unit = error((1 - s) * first + s * last, batch["frames"][:, 0]) + SMALLEST
        parts = {
            "frame": jnp.mean(error(motion.frame, truth) / unit),
            "blend": jnp.mean(error(motion.blend, truth) / unit),
            "ends": jnp.mean((error(motion.first, truth) + error(motion.last, truth)) / unit),
        }
        weights = {"frame": 1.0, "blend": config.blend_weight, "ends": config.ends_weight}
        if predicted is not None:
            wrong = jnp.square(predicted - gathered(noise, model.factor))
            parts["noise"] = jnp.mean(jnp.where(_wide(clean), 0.0, wrong))
            weights["noise"] = config.noise_weight
        if config.agree_weight:
            window = (1 if self.plan.flat[0] else 9, 9, 9)
            parts["agree"] = -local_ncc(motion.first * fov, motion.last * fov, window)
            weights["agree"] = config.agree_weight
        if config.label_weight:
            parts["labels"] = label_loss(motion, batch["labels_ed"], batch["labels_es"])
            weights["labels"] = config.label_weight
        if config.smooth_weight:
            parts["smooth"] = smoothness(motion.from_first) + smoothness(motion.from_last)
            weights["smooth"] = config.smooth_weight
        total = jnp.sum(jnp.stack([weights[name] * part for name, part in parts.items()]))
        return total, parts

    def _noised(self, image: Image, keys: Keys) -> tuple[Image, Array, Image, Array]:
        """What the denoiser sees of it in [-1, 1], its step, the noise, and whether it has none."""
        schedule, (keys_clean, keys_noise) = make_schedule(self.diffusion), apart(keys, 2)
        clean = chance(keys_clean, CLEAN)
        t, noise = step_and_noise(keys_noise, image.shape[1:], self.diffusion.steps)
        t = jnp.where(clean, 0, t)
        image = 2 * image - 1
        noised = q_sample(schedule.at(t), image, noise)
        return jnp.where(_wide(clean), image, noised), t, noise, clean

    def generate(
        self, model: BetweenNet, ends: Ends, gammas: Float[Array, "b t"], key: PRNGKeyArray
    ) -> Generated:
        """One pass over the ends with x_t := ES, then one of the motion for each frame."""
        del key  # nothing is drawn
        views = symmetries(ends.ed.shape[2:4]) if self.motion.symmetries else (Symmetry(),)
        images = (ends.ed, ends.es, ends.bend[:, 0], ends.bend[:, 1])
        ed, es, *bends = (jnp.concatenate([v.turned(x) for v in views]) for x in images)
        count, start = len(views), jnp.zeros(len(ed), jnp.int32)
        span = jnp.tile(ends.span, (count, 1))
        pair, _ = model.pair(ed, es, span, jnp.stack(bends, axis=1), 2 * es - 1, start)

        def frame(gamma: Float[Array, " b"]) -> tuple[Image, Flow]:
            flows = model.flows(pair, jnp.tile(gamma, count))
            if self.motion.refine:
                how = replace(self.registration, steps=self.motion.refine)
                flows = model.refined(flows, displacement(ed, es, flows.s, how, flows.ends))
            motion = model.motion(pair, flows)
            frames = jnp.split(motion.frame, count)
            froms = jnp.split(motion.from_first, count)
            back = [v.back(x) for v, x in zip(views, frames, strict=True)]
            moves = [v.flow_back(x) for v, x in zip(views, froms, strict=True)]
            return jnp.mean(jnp.stack(back), 0), jnp.mean(jnp.stack(moves), 0)

        return Generated(*by_frame(frame, gammas))


def label_loss(
    motion: Motion, first: UInt8[Array, "b d h w 1"], last: UInt8[Array, "b d h w 1"]
) -> Float[Array, ""]:
    """1 - Dice of the labels of both ends, each moved as its image is (after VoxelMorph;
    Balakrishnan et al. 2019, IEEE TMI), mean over the structures; 0 where an end has no labels."""

    def structures(labels: Array) -> Array:
        kinds = jnp.arange(1, STRUCTURES + 1, dtype=labels.dtype)[None, None, None, None]
        return (labels == kinds).astype(motion.frame.dtype)

    a = moved(structures(first), motion.from_first)
    b = moved(structures(last), motion.from_last)
    both, each = (a * b).sum((1, 2, 3)), (a * a + b * b).sum((1, 2, 3))
    known = (_mean(structures(first)) > 0) & (_mean(structures(last)) > 0)
    missed = jnp.mean(1 - (2 * both + 1) / (each + 1), axis=-1)
    return jnp.mean(jnp.where(known, missed, 0.0))


def _mean(x: Array) -> Float[Array, " b"]:
    return x.mean(tuple(range(1, x.ndim)))


def _wide(x: Array) -> Array:
    """(b,) to broadcast against images."""
    return x[:, None, None, None, None]
