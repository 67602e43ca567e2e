"""What method direct generates, and from what."""

from dataclasses import dataclass
from typing import Literal, get_args

from mstg_jax.config.checks import SettingsError, share
from mstg_jax.config.diffusion import DiffusionConfig

SAMPLED = ("direct", "ukan")
"""Methods whose frames come from reverse diffusion."""
Condition = Literal["ed", "es", "keys", "labels", "group", "ef"]
Group = Literal["NOR", "DCM", "MINF", "HCM", "RV"]
GROUPS = get_args(Group)
"""ACDC's classes: normal, dilated cardiomyopathy, infarction, hypertrophic cardiomyopathy,
abnormal right ventricle."""


@dataclass(frozen=True)
class DirectConfig:
    given: tuple[Condition, ...] = ("ed", "es")
    """What frames are made from, beside their moments: the images at ED and ES; keys: frames of the
    sequence itself; labels: their labels; group: the class of the patient; ef: its ejection
    fraction."""
    drop: float = 0.0
    """Share of the training examples in which each of these is left out, by itself, and share in
    which all are: one model then serves any of them, and guidance."""
    makes: tuple[Literal["frames", "labels"], ...] = ("frames",)
    """Labels are made along with the frames."""
    ends: bool = False
    """ED and ES are among the frames that are made."""
    any_length: bool = False
    """Sequences of different lengths in training, up to diffusion.frames."""
    block: tuple[int, int, int] = (0, 0, 0)
    """Voxels (d, h, w) of the blocks that are trained on and sampled in, told their place in the
    volume; 0 is all of an axis."""
    guidance: float = 1.0
    """Scale of what the conditions change in the prediction when sampling; 1 as it was trained,
    more for conditions that are obeyed more (classifier-free guidance)."""

    @property
    def in_blocks(self) -> bool:
        return any(self.block)

    def check(self) -> None:
        if min(self.block) < 0:
            raise SettingsError(f"direct.block is {self.block}, but needs three numbers from 0 up")
        share("direct", self, "drop")
        if len(set(self.given)) < len(self.given):
            raise SettingsError(f"direct.given is {self.given}, which names one twice")
        if "frames" not in self.makes:
            raise SettingsError(f"direct.makes is {self.makes}, but frames are always made")
        if {"labels"} <= {*self.given} & {*self.makes}:
            raise SettingsError("labels are given and made: take them out of one of direct's")
        if self.guidance != 1 and self.drop == 0:
            raise SettingsError(
                f"direct.guidance is {self.guidance}, which needs a model that was trained without "
                "the conditions too: direct.drop above 0"
            )


def check_direct(method: str, diffusion: DiffusionConfig, direct: DirectConfig) -> None:
    """Raises SettingsError on a diffusion that the method, or what it makes, does not go with."""
    if method not in SAMPLED and not diffusion.discrete:
        raise SettingsError(
            f"diffusion.schedule is {diffusion.schedule}, which is for method direct; "
            f"{method} needs a schedule of betas"
        )
    if diffusion.schedule == "learned" and (direct.any_length or len(direct.makes) > 1):
        raise SettingsError(
            "diffusion.schedule learned counts the bits of every voxel: no direct.any_length, "
            "and no labels in direct.makes"
        )
    if method != "direct" and diffusion.draw == "importance":
        raise SettingsError(
            f"diffusion.draw importance is for method direct, and the method is {method}"
        )
    if method == "ukan" and (diffusion.variance == "learned" or diffusion.fourier):
        raise SettingsError(
            "diffusion.variance learned and diffusion.fourier are for method direct, and the "
            "method is ukan"
        )
