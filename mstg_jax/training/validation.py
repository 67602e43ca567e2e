"""Score a model on held-out patients while it trains, and draw the first one."""

from collections.abc import Sequence
from pathlib import Path

from flax import nnx

from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.scoring.protocol import score_sequence
from mstg_jax.evaluation.scoring.resampled import resampled_sequence, resampled_truth
from mstg_jax.evaluation.scoring.scores import Score, average, known
from mstg_jax.evaluation.showing.figures import validation_picture
from mstg_jax.evaluation.showing.view import view_of
from mstg_jax.methods import Method, generate_sequence


def validate(
    method: Method,
    model: tuple[nnx.GraphDef, nnx.State],
    examples: Sequence[Example],
    picture: Path | None = None,
) -> dict[str, float]:
    """PSNR, SSIM, NMSE inside the field of view between ED and ES, and Dice at ES; means of what
    the patients have."""
    scores: list[Score] = []
    for example in examples:
        made = generate_sequence(
            method,
            model,
            example.frames[0],
            example.frames[-1],
            example.gammas,
            span=example.span,
        )
        truth = resampled_truth(example)
        scores.append(score_sequence(truth, resampled_sequence(example, made)))
        if picture is not None and len(scores) == 1:
            view = view_of(example)
            title = f"{example.id}, {picture.stem}"
            picture.parent.mkdir(parents=True, exist_ok=True)
            validation_picture(picture, example.frames, made.frames, example.gammas, view, title)
    mean = average(scores)
    followed = {
        "psnr": mean.between.psnr_fov,
        "ssim": mean.between.ssim_fov,
        "nmse": mean.between.nmse_fov,
        "dice": mean.dice and mean.dice.mean,
    }
    return {name: value for name, value in followed.items() if known(value)}
