"""The numbers of a score that are compared and shown."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from mstg_jax.evaluation.scoring.scores import Numbers, known

MISSING = "–"
ARROWS = {True: " ↑", False: " ↓", None: ""}
Accessor: TypeAlias = Callable[[Numbers], float | None]


@dataclass(frozen=True)
class Metric:
    """A number of a score: what it is called, how it is written, and where it is."""

    key: str
    """In results.json."""
    title: str
    form: str
    of: Accessor
    """nan where it is undefined, None where the score does not have it."""
    up: bool | None = None
    """Whether more is better."""

    @property
    def header(self) -> str:
        return self.title + ARROWS[self.up]

    def cell(self, value: float | None) -> str:
        return written(value, self.form)


def written(value: float | None, form: str) -> str:
    """A number as str.format gives it, a dash for none."""
    return form.format(value) if known(value) else MISSING


TESTED = (
    Metric("between.psnr_fov", "PSNR (dB)", "{:.2f}", lambda s: s.between.psnr_fov, True),
    Metric("between.ssim_fov", "SSIM", "{:.3f}", lambda s: s.between.ssim_fov, True),
    Metric("between.nmse_fov", "NMSE", "{:.4f}", lambda s: s.between.nmse_fov, False),
)
"""Inside the field of view, frames strictly between ED and ES: what methods are tested on."""
PSNR = TESTED[0]
QUALITY = (
    *TESTED,
    Metric("between.psnr", "PSNR, whole volume", "{:.2f}", lambda s: s.between.psnr, True),
    Metric("between.ssim", "SSIM, whole volume", "{:.3f}", lambda s: s.between.ssim, True),
    Metric("between.nmse", "NMSE, whole volume", "{:.4f}", lambda s: s.between.nmse, False),
)
DICE = Metric("dice.mean", "Dice at ES", "{:.3f}", lambda s: s.dice and s.dice.mean, True)
FOLDING = Metric("folding", "Folding", "{:.3%}", lambda s: s.folding, False)
SECONDS = Metric("seconds", "Seconds per sequence", "{:.3g}", lambda s: s.seconds, False)
MOTION = (
    Metric("dice.lv", "Dice LV", "{:.3f}", lambda s: s.dice and s.dice.lv, True),
    Metric("dice.rv", "Dice RV", "{:.3f}", lambda s: s.dice and s.dice.rv, True),
    Metric("dice.myo", "Dice myocardium", "{:.3f}", lambda s: s.dice and s.dice.myo, True),
    replace(DICE, title="Dice mean"),
    Metric(
        "ejection_fraction.error",
        "EF error",
        "{:.1%}",
        lambda s: s.ejection_fraction and s.ejection_fraction.error,
        False,
    ),
    Metric("lv_volume_error", "LV volume error", "{:.1%}", lambda s: s.lv_volume_error, False),
    FOLDING,
    Metric("roughness.ratio", "Roughness / truth's", "{:.2f}", lambda s: s.roughness.ratio),
)
