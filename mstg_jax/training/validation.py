"""Score a model on held-out patients while it trains, and draw the first one."""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.scoring.protocol import score_sequence
from mstg_jax.evaluation.scoring.resampled import resampled_sequence, resampled_truth
from mstg_jax.evaluation.scoring.scores import known, mean
from mstg_jax.evaluation.showing.figures import validation_picture
from mstg_jax.evaluation.showing.view import view_of
from mstg_jax.methods import Method, generate_sequence
from mstg_jax.methods.base import Model
from mstg_jax.training.processes import together

METRICS = ("psnr", "ssim", "nmse", "dice")


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
        for row, example in zip(rows, examples[index::count], strict=False):
            row[:] = _measured(method, model, example, None if index else picture)
            picture = None
    if count > 1:
        rows = multihost_utils.process_allgather(rows.astype(np.float32)).reshape(-1, len(METRICS))
    means = {name: mean(column.tolist()) for name, column in zip(METRICS, rows.T, strict=True)}
    return {name: value for name, value in means.items() if known(value)}


def _measured(
    method: Method, model: Model, example: Example, picture: Path | None
) -> tuple[float, ...]:
    """In the order of METRICS, nan for none; the picture is drawn where it has a path."""
    ends = example.frames[0], example.frames[-1]
    made = generate_sequence(method, model, *ends, example.gammas, span=example.span)
    score = score_sequence(resampled_truth(example), resampled_sequence(example, made))
    if picture is not None:
        title = f"{example.id}, {picture.stem}"
        picture.parent.mkdir(parents=True, exist_ok=True)
        drawn = (example.frames, made.frames, example.gammas, view_of(example), title)
        validation_picture(picture, *drawn)
    quality, dice = score.between, score.dice
    return (
        quality.psnr_fov,
        quality.ssim_fov,
        quality.nmse_fov,
        math.nan if dice is None else dice.mean,
    )
