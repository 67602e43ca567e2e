"""Score a model on held-out patients while it trains, and draw the first one."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.scoring.measures import DICE, TESTED
from mstg_jax.evaluation.scoring.resampled import made_and_scored
from mstg_jax.evaluation.scoring.scores import known, mean
from mstg_jax.evaluation.showing.figures import validation_picture
from mstg_jax.evaluation.showing.view import view_of
from mstg_jax.methods import Method
from mstg_jax.methods.base import FrameSequence, Model
from mstg_jax.training.processes import together

METRICS = dict(zip(("psnr", "ssim", "nmse", "dice"), (*TESTED, DICE), strict=True))


def validate(
    method: Method, model: Model, examples: Sequence[Example], picture: Path | None = None
) -> dict[str, float]:
    """PSNR, SSIM, NMSE inside the field of view between ED and ES, and Dice at ES; means of what
    the patients have.

    Several processes share the patients out and must all call; each gets the means over all.
    """
    index, count = jax.process_index(), jax.process_count()
    # As many rows everywhere, and nan for what a patient does not have.
    rows = np.full((-(-len(examples) // count), len(METRICS)), np.nan)
    with together():
        for number, example in enumerate(examples[index::count]):
            made, score = made_and_scored(method, model, example)
            found = [metric.of(score) for metric in METRICS.values()]
            rows[number] = [value if known(value) else np.nan for value in found]
            if picture is not None and index == number == 0:
                _draw(picture, example, made)
    if count > 1:
        rows = multihost_utils.process_allgather(rows.astype(np.float32)).reshape(-1, len(METRICS))
    means = {name: mean(column.tolist()) for name, column in zip(METRICS, rows.T, strict=True)}
    return {name: value for name, value in means.items() if known(value)}


def _draw(picture: Path, example: Example, made: FrameSequence) -> None:
    title = f"{example.id}, {picture.stem}"
    picture.parent.mkdir(parents=True, exist_ok=True)
    drawn = (example.frames, made.frames, example.gammas, view_of(example), title)
    validation_picture(picture, *drawn)
