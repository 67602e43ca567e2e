"""Score a model on held-out patients while it trains, and draw the first one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.figures import validation_picture
from mstg_jax.evaluation.outputs import score_sequence, view_of
from mstg_jax.evaluation.protocol import average
from mstg_jax.methods import Method, generate_sequence

FOLLOWED = ("psnr_fov", "ssim_fov", "nmse_fov")


def validate(
    method: Method,
    model: tuple[nnx.GraphDef, nnx.State],
    examples: Sequence[Example],
    picture: Path | None = None,
) -> dict[str, float]:
    """PSNR, SSIM, NMSE inside the field of view between ED and ES, and Dice at ES; means of what
    the patients have."""
    scores: list[dict[str, Any]] = []
    for example in examples:
        made = generate_sequence(
            method, model, example.frames[0], example.frames[-1], example.gammas
        )
        scores.append(score_sequence(example, made))
        if picture is not None and len(scores) == 1:
            view = view_of(example)
            title = f"{example.id}, {picture.stem}"
            picture.parent.mkdir(parents=True, exist_ok=True)
            validation_picture(picture, example.frames, made.frames, example.gammas, view, title)
    mean = average(scores)
    between = {name.removesuffix("_fov"): mean["between"][name] for name in FOLLOWED}
    values = {name: value for name, value in between.items() if value is not None}
    if mean.get("dice", {}).get("mean") is not None:
        values["dice"] = mean["dice"]["mean"]
    return values
