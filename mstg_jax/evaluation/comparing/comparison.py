"""Several methods on the same held-out patients: generate, time, score, and compare."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from mstg_jax.data.acdc import read_patient
from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.comparing.likeness import (
    REPEATED,
    Likeness,
    Match,
    Matches,
    nearest,
    summarise,
)
from mstg_jax.evaluation.comparing.statistics import Interval, PairedTest, interval, paired_tests
from mstg_jax.evaluation.scoring.measures import MOTION, PSNR, QUALITY, SECONDS, TESTED, Metric
from mstg_jax.evaluation.scoring.native import NATIVE, native_sequence, native_truth
from mstg_jax.evaluation.scoring.protocol import score_sequence
from mstg_jax.evaluation.scoring.resampled import resampled_sequence
from mstg_jax.evaluation.scoring.scores import Quality, Score, known, mean_of, none_between
from mstg_jax.methods import Method, generate_sequence
from mstg_jax.methods.base import FRAMES_PER_PROGRAM, FrameSequence, Model

log = logging.getLogger(__name__)
GAMMA_BINS = 5


@dataclass(frozen=True, eq=False)
class Contender:
    """A method with its weights; `run` and `step` say where they come from, None for none.

    patients: those that are compared, by id, on the method's own grid where that is another one.
    """

    name: str
    method: Method
    model: Model
    parameters: int = 0
    run: str | None = None
    step: int | None = None
    patients: dict[str, Example] = field(default_factory=dict)

    def generate(self, example: Example, seed: int) -> FrameSequence:
        """On the grid that is scored."""
        return resampled_sequence(self.own(example), self.raw(example, seed))

    def own(self, example: Example) -> Example:
        return self.patients.get(example.id, example)

    def raw(self, example: Example, seed: int) -> FrameSequence:
        """On the method's own grid."""
        own = self.own(example)
        ed, es = own.frames[0], own.frames[-1]
        return generate_sequence(self.method, self.model, ed, es, own.gammas, seed, own.span)


@dataclass(frozen=True)
class Bin:
    """Intervals of the tested metrics around the middle `gamma` of a bin."""

    gamma: float
    intervals: dict[Metric, Interval]


@dataclass(frozen=True)
class MethodResult:
    """What a contender did on all patients."""

    run: str | None
    step: int | None
    parameters: int
    summary: dict[Metric, Interval]
    over_gamma: list[Bin]
    likeness: Likeness
    patients: list[Score]
    matches: Matches


@dataclass(frozen=True)
class Comparison:
    """Contenders by their names, on the same held-out patients."""

    protocol: str
    seed: int
    likeness_threshold: float
    training: list[str]
    """Ids of the patients, as in `validation`."""
    validation: list[str]
    methods: dict[str, MethodResult]
    truth: Likeness
    """That of the real frames."""
    tests: list[PairedTest]
    data: dict[str, Any] = field(default_factory=dict)
    """Settings of the data, for the record."""


def compare(
    contenders: Sequence[Contender],
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    protocol: str,
    threshold: float = REPEATED,
    seed: int = 0,
) -> Comparison:
    """Scores of every contender, timed, and their frames strictly between ED and ES beside the
    nearest training frames; the first contender is tested against the others."""
    scores: dict[str, list[Score]] = {c.name: [] for c in contenders}
    matches: dict[str, Matches] = {name: {} for name in ("truth", *scores)}
    compiled: set[tuple[str, int, int]] = set()
    for number, example in enumerate(validation, 1):
        patient = read_patient(example.folder) if protocol == NATIVE else None
        truth = example if patient is None else native_truth(patient)
        compared = {"truth": np.asarray(example.frames[1:-1])}
        for contender in contenders:
            made, seconds = _timed(contender, example, seed, compiled)
            own = contender.own(example)
            on_grid = judged = resampled_sequence(own, made)
            if patient is not None:
                judged = native_sequence(patient, own.geometry, made)
            score = replace(score_sequence(truth, judged, protocol), seconds=seconds)
            scores[contender.name].append(score)
            compared[contender.name] = on_grid.frames[1:-1]
        for name, found in _nearest(compared, example, training).items():
            matches[name][example.id] = found
        psnr = ", ".join(f"{n} {PSNR.cell(PSNR.of(s[-1]))}" for n, s in scores.items())
        log.info(f"{example.id} ({number} of {len(validation)}): PSNR in the field of view {psnr}")
    return Comparison(
        protocol=protocol,
        seed=seed,
        likeness_threshold=threshold,
        training=[example.id for example in training],
        validation=[example.id for example in validation],
        methods={
            c.name: MethodResult(
                run=c.run,
                step=c.step,
                parameters=c.parameters,
                summary=summary(scores[c.name], seed),
                over_gamma=over_gamma(scores[c.name], seed),
                likeness=summarise(matches[c.name], threshold),
                patients=scores[c.name],
                matches=matches[c.name],
            )
            for c in contenders
        },
        truth=summarise(matches["truth"], threshold),
        tests=paired_tests(
            {name: {m.key: [m.of(s) for s in own] for m in TESTED} for name, own in scores.items()}
        ),
    )


def _timed(
    contender: Contender, example: Example, seed: int, compiled: set[tuple[str, int, int]]
) -> tuple[FrameSequence, float]:
    """The sequence and its seconds; programs that are new (see FRAMES_PER_PROGRAM) run before."""
    slices = len(contender.own(example).fov)
    program = contender.name, -(-len(example.gammas) // FRAMES_PER_PROGRAM), slices
    if program not in compiled:
        contender.raw(example, seed)
        compiled.add(program)
    start = time.perf_counter()
    made = contender.raw(example, seed)
    return made, time.perf_counter() - start


def _nearest(
    compared: dict[str, Float32[np.ndarray, "t d h w"]],
    example: Example,
    training: Sequence[Example],
) -> dict[str, list[Match]]:
    """The matches of every method's frames; together, so that training frames are read once."""
    found = nearest(np.concatenate([*compared.values()]), example.fov, training)
    count = len(found) // len(compared)
    return {name: found[i * count : (i + 1) * count] for i, name in enumerate(compared)}


def summary(scores: Sequence[Score], seed: int = 0) -> dict[Metric, Interval]:
    """Means over patients."""
    metrics = (*QUALITY, *MOTION, SECONDS)
    return {m: interval([m.of(score) for score in scores], seed) for m in metrics}


def over_gamma(scores: Sequence[Score], seed: int = 0) -> list[Bin]:
    """The frames strictly between ED and ES in equal bins of gamma.

    Patients have frames at different gammas: in a bin each counts once, with its mean.
    """
    bins = []
    for i in range(GAMMA_BINS):
        inside = [replace(score, between=_between(score, i)) for score in scores]
        found = {m: interval([m.of(score) for score in inside], seed) for m in TESTED}
        bins.append(Bin((i + 0.5) / GAMMA_BINS, found))
    return bins


def _between(score: Score, number: int) -> Quality:
    """Mean of the frames in one bin."""
    inside = [f for f in score.per_frame[1:-1] if int(f.gamma * GAMMA_BINS) == number]
    return mean_of(Quality, [f.quality for f in inside])


def worst(scores: Sequence[Score], count: int) -> list[Score]:
    """The patients of lowest PSNR inside the field of view, the lowest first. One whose PSNR is
    undefined, because what was generated is, is the worst; one without frames between is none."""

    def psnr(score: Score) -> float:
        value = PSNR.of(score)
        return value if known(value) else -math.inf

    return sorted((s for s in scores if not none_between([s])), key=psnr)[:count]


def typical(scores: Sequence[Score]) -> Score:
    """The patient of median PSNR inside the field of view (the lower one of two); the one in the
    middle of the list where none has frames between."""
    ranked = worst(scores, len(scores)) or scores
    return ranked[(len(ranked) - 1) // 2]
