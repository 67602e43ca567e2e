"""Scores of a run's held-out patients, kept beside its checkpoint, and what it cost."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mstg_jax import files, runs
from mstg_jax.config import Config
from mstg_jax.data.pipeline import Example, load_examples
from mstg_jax.evaluation.as_json import strict
from mstg_jax.evaluation.scoring.measures import DICE, MOTION, TESTED
from mstg_jax.evaluation.scoring.resampled import made_and_scored
from mstg_jax.evaluation.scoring.scores import known
from mstg_jax.methods import make_method
from mstg_jax.sweep.folder import last_step
from mstg_jax.training.checkpoint import load_model
from mstg_jax.training.state import parameter_count

EF = next(metric for metric in MOTION if metric.key == "ejection_fraction.error")
METRICS = (*TESTED, DICE, EF)
FILE = "scores.json"


class RunScores(NamedTuple):
    """patients: id -> metric's key -> value, nan for none. seconds: of a training step; memory: the
    peak in GB; nan where the run did not log them."""

    step: int
    parameters: int
    seconds: float
    memory: float
    patients: dict[str, dict[str, float]]


def scores_of(run: Path, config: Config) -> RunScores:
    """Under the protocol `resampled`. Read from the run's folder if they are its newest
    checkpoint's, on the same patients and grid, else made and put there."""
    examples = load_examples(config.data)[1]
    about = {
        "patients": {example.id: example.digest for example in examples},
        "grid": [config.data.size, config.data.spacing, config.data.crop, config.data.percentiles],
    }
    known_ones = _read(run, json.loads(json.dumps(about)))
    if known_ones is not None and known_ones[0] == last_step(run):
        step, parameters, patients = known_ones
    else:
        step, parameters, patients = _made(run, config, examples)
        record = {"step": step, "parameters": parameters, "about": about, "scores": patients}
        with files.writing("the scores of", run):
            files.write_text(run / FILE, json.dumps(strict(record), indent=1) + "\n")
    return RunScores(step, parameters, *_cost(run), patients)


def _made(
    run: Path, config: Config, examples: Sequence[Example]
) -> tuple[int, int, dict[str, dict[str, float]]]:
    method = make_method(config)
    model, step = load_model(run, config, method)
    patients = {}
    for example in examples:
        _, score = made_and_scored(method, model, example)
        found = {metric.key: metric.of(score) for metric in METRICS}
        patients[example.id] = {key: x if known(x) else math.nan for key, x in found.items()}
    return step, parameter_count(model[1]), patients


def _read(
    run: Path, about: Mapping[str, object]
) -> tuple[int, int, dict[str, dict[str, float]]] | None:
    try:
        stored = json.loads((run / FILE).read_text(encoding="utf-8"))
        if stored["about"] != about:
            return None
        patients = {
            patient: {metric.key: _number(values[metric.key]) for metric in METRICS}
            for patient, values in stored["scores"].items()
        }
        return stored["step"], stored["parameters"], patients
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _cost(run: Path) -> tuple[float, float]:
    """Median seconds of a step, and the largest memory."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if '"cost"' in line]
    except (OSError, ValueError):
        return math.nan, math.nan
    seconds = [line["seconds"] for line in found if "seconds" in line]
    memory = [line["memory"] for line in found if "memory" in line]
    return (
        float(np.median(seconds)) if seconds else math.nan,
        max(memory) if memory else math.nan,
    )


def config_of(run: Path, root: str | None) -> Config:
    """A run's settings, with another folder of the data where one is named."""
    config = runs.read_config(run)
    return config if root is None else replace(config, data=replace(config.data, root=root))
