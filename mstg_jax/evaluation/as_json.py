"""Scores as JSON has them.

What is undefined is null, and there is no key for what the method or the patient does not have.
"""

import math
from dataclasses import asdict
from typing import Any

from mstg_jax.evaluation.scoring.scores import Average, Frame, Numbers, Score

# The first keys, in this order.
SCORE = ("id", "protocol", "between", "roughness", "per_frame")
AVERAGE = ("protocol", "patients", "none_between")


def score_record(score: Score) -> dict[str, Any]:
    """A patient's scores."""
    frames = [_frame(frame) for frame in score.per_frame]
    return strict(dict.fromkeys(SCORE) | _present(score) | {"per_frame": frames})


def average_record(means: Average) -> dict[str, Any]:
    """Means over patients."""
    return strict(dict.fromkeys(AVERAGE) | _present(means))


def strict(value: Any) -> Any:
    """The same tree with None for nan, which JSON does not have, and lists for tuples."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _frame(frame: Frame) -> dict[str, Any]:
    others = _present(frame)
    return {"gamma": others.pop("gamma"), **others.pop("quality"), **others}


def _present(item: Numbers | Frame) -> dict[str, Any]:
    return {name: value for name, value in asdict(item).items() if value is not None}
