"""Several methods on the same held-out patients: generate, time, score, and compare."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from mstg_jax.data.acdc import read_patient
from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation import likeness
from mstg_jax.evaluation.native import NATIVE, native_sequence, native_truth
from mstg_jax.evaluation.outputs import score_sequence
from mstg_jax.evaluation.protocol import Truth, none_between
from mstg_jax.evaluation.statistics import interval, paired_tests
from mstg_jax.evaluation.tables import MOTION, QUALITY, SECONDS, TESTED, Metric
from mstg_jax.methods import Method, generate_sequence
from mstg_jax.methods.base import FRAMES_PER_PROGRAM, Model
from mstg_jax.methods.base import Sequence as Made

GAMMA_BINS = 5
PSNR = TESTED[0]
Score = dict[str, Any]
Fit = Callable[[Made], Made]


@dataclass(frozen=True, eq=False)
class Contender:
    """A method with its weights; `run` and `step` say where they come from, None for none."""

    name: str
    method: Method
    model: Model
    parameters: int = 0
    run: str | None = None
    step: int | None = None

    def generate(self, example: Example, seed: int) -> Made:
        ed, es = example.frames[0], example.frames[-1]
        return generate_sequence(self.method, self.model, ed, es, example.gammas, seed)


def compare(
    contenders: Sequence[Contender],
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    protocol: str,
    threshold: float = 0.95,
    seed: int = 0,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Everything that results.json holds, ready for JSON.

    `methods` gives each contender's `summary` (intervals over patients by Metric.key),
    `over_gamma`, `likeness` and `patients`: protocol.score of each, with `seconds` of a sequence on
    this machine, compilation excluded, and the `likeness` of each frame strictly between ED and ES
    to its nearest training frame. `truth` has the same likeness of the real frames, `tests` the
    paired tests.
    """
    scores: dict[str, list[Score]] = {c.name: [] for c in contenders}
    matches: dict[str, likeness.Matches] = {name: {} for name in ("truth", *scores)}
    compiled: set[tuple[str, int]] = set()
    for number, example in enumerate(validation, 1):
        truth, fit = _judged(protocol, example)
        compared = {"truth": np.asarray(example.frames[1:-1])}
        for contender in contenders:
            made, seconds = _timed(contender, example, seed, compiled)
            score = score_sequence(truth, fit(made), protocol) | {"seconds": seconds}
            scores[contender.name].append(score)
            compared[contender.name] = made.frames[1:-1]
        for name, found in _nearest(compared, example, training).items():
            matches[name][example.id] = found
            frames = scores[name][-1]["per_frame"][1:-1] if name in scores else []
            for frame, match in zip(frames, found, strict=False):
                frame["likeness"] = match._asdict()
        psnr = ", ".join(f"{n} {PSNR.cell(PSNR.of(s[-1]))}" for n, s in scores.items())
        progress(f"{example.id} ({number} of {len(validation)}): PSNR in the field of view {psnr}")
    return {
        "protocol": protocol,
        "seed": seed,
        "likeness_threshold": threshold,
        "training": [example.id for example in training],
        "validation": [example.id for example in validation],
        "methods": {
            c.name: {
                "run": c.run,
                "step": c.step,
                "parameters": c.parameters,
                "summary": summary(scores[c.name], seed),
                "over_gamma": over_gamma(scores[c.name], seed),
                "likeness": likeness.summarise(matches[c.name], threshold),
                "patients": scores[c.name],
            }
            for c in contenders
        },
        "truth": {"likeness": likeness.summarise(matches["truth"], threshold)},
        "tests": paired_tests(
            {name: {m.key: [m.of(s) for s in own] for m in TESTED} for name, own in scores.items()}
        ),
    }


def _timed(
    contender: Contender, example: Example, seed: int, compiled: set[tuple[str, int]]
) -> tuple[Made, float]:
    """The sequence and its seconds; programs that are new (see FRAMES_PER_PROGRAM) run before."""
    program = (contender.name, -(-len(example.gammas) // FRAMES_PER_PROGRAM))
    if program not in compiled:
        contender.generate(example, seed)
        compiled.add(program)
    start = time.perf_counter()
    made = contender.generate(example, seed)
    return made, time.perf_counter() - start


def _nearest(
    compared: dict[str, Float32[np.ndarray, "t d h w"]],
    example: Example,
    training: Sequence[Example],
) -> likeness.Matches:
    """The matches of every method's frames; together, so that training frames are read once."""
    found = likeness.nearest(np.concatenate([*compared.values()]), example.fov, training)
    count = len(found) // len(compared)
    return {name: found[i * count : (i + 1) * count] for i, name in enumerate(compared)}


def summary(scores: Sequence[Score], seed: int = 0) -> dict[str, Any]:
    """Metric.key -> mean and interval over patients (statistics.interval)."""
    metrics: tuple[Metric, ...] = (*QUALITY, *MOTION, SECONDS)
    return {m.key: interval([m.of(score) for score in scores], seed) for m in metrics}


def over_gamma(scores: Sequence[Score], seed: int = 0) -> list[dict[str, Any]]:
    """The tested metrics of the frames strictly between ED and ES, in equal bins of gamma.

    Patients have frames at different gammas: in a bin each counts once, with its mean. A bin has
    its middle as `gamma`, and an interval by Metric.key.
    """
    bins = []
    for i in range(GAMMA_BINS):
        found: dict[str, Any] = {"gamma": (i + 0.5) / GAMMA_BINS}
        inside = [
            [f for f in score["per_frame"][1:-1] if int(f["gamma"] * GAMMA_BINS) == i]
            for score in scores
        ]
        for metric in TESTED:
            name = metric.path[-1]
            means = [_mean([f[name] for f in frames]) for frames in inside]
            found[metric.key] = interval(means, seed)
        bins.append(found)
    return bins


def worst(scores: Sequence[Score], count: int) -> list[Score]:
    """The patients of lowest PSNR inside the field of view, the lowest first. One whose PSNR is
    undefined, because what was generated is, is the worst; one without frames between is none."""

    def psnr(score: Score) -> float:
        value = PSNR.of(score)
        return -math.inf if value is None else value

    return sorted((s for s in scores if not none_between([s])), key=psnr)[:count]


def typical(scores: Sequence[Score]) -> Score:
    """The patient of median PSNR inside the field of view (the lower one of two); the one in the
    middle of the list where none has frames between."""
    known = worst(scores, len(scores)) or scores
    return known[(len(known) - 1) // 2]


def _judged(protocol: str, example: Example) -> tuple[Truth, Fit]:
    """The truth under a protocol, and what brings a generated sequence to its grid."""
    if protocol != NATIVE:
        return example, lambda made: made
    patient = read_patient(example.folder)
    return native_truth(patient), lambda made: native_sequence(patient, example.geometry, made)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
