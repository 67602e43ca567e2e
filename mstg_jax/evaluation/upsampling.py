"""Temporal upsampling: real cycles thinned out, and made whole again by each method.

On the patient's own grid, in the whole image; a cycle's first frame follows its last. PSNR has the
99.9th percentile of ED as its range.
"""

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from scipy.interpolate import CubicSpline

from mstg_jax.cycles import frames_at, linear
from mstg_jax.data.acdc import read_patient
from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.as_json import strict
from mstg_jax.evaluation.comparing.comparison import Contender
from mstg_jax.evaluation.comparing.statistics import Interval, interval
from mstg_jax.evaluation.scoring.metrics import psnr
from mstg_jax.evaluation.showing.charts import phase_chart
from mstg_jax.evaluation.showing.tables import Table, markdown

log = logging.getLogger(__name__)
LINEAR, SPLINE = "linear", "spline"
RANGE = 99.9
PHASES = 10


@dataclass(frozen=True)
class MadeFrame:
    """A frame that was left out and made again; phase: its place in the cycle, 0 at ED."""

    patient: str
    factor: int
    method: str
    frame: int
    phase: float
    psnr: float


def upsample(
    contenders: Sequence[Contender],
    validation: Sequence[Example],
    factors: Sequence[int],
    seed: int = 0,
) -> list[MadeFrame]:
    """Every `factor`-th frame of each patient is kept; the methods, a blend that is linear in time
    and a periodic cubic spline make the others."""
    found: list[MadeFrame] = []
    for number, example in enumerate(validation, 1):
        patient = read_patient(example.folder)
        real, count = patient.frames, len(patient.frames)
        unit = float(np.percentile(real[patient.ed], RANGE))
        for factor in factors:
            kept = list(range(0, count, factor))
            wanted = [k for k in range(count) if k not in kept]
            at, times, period = [float(k) for k in kept], [float(k) for k in wanted], float(count)
            made = {LINEAR: linear(real[kept], at, times, period=period)}
            made |= {SPLINE: _spline(real[kept], at, times, period)}
            for contender in contenders:
                grid = contender.own(example).geometry
                own = contender.method, contender.model, real[kept], grid
                made[contender.name] = frames_at(*own, at, times, period=period, seed=seed)
            for name, frames in made.items():
                for k, frame in zip(wanted, frames, strict=True):
                    phase = (k - patient.ed) % count / count
                    quality = psnr(frame / unit, real[k] / unit)
                    found.append(MadeFrame(example.id, factor, name, k, phase, quality))
            shown = ", ".join(f"{n} {v:.2f}" for n, v in _means(found, example.id, factor).items())
            log.info(f"{example.id} ({number} of {len(validation)}), factor {factor}: {shown}")
    return found


def _spline(
    keys: Float32[np.ndarray, "k d h w"], at: list[float], wanted: list[float], period: float
) -> Float32[np.ndarray, "t d h w"]:
    closed = np.concatenate([keys, keys[:1]])
    return CubicSpline([*at, period], closed, bc_type="periodic")(wanted).astype(np.float32)


def _means(found: Sequence[MadeFrame], patient: str, factor: int) -> dict[str, float]:
    """PSNR by method, mean over a patient's frames."""
    own = [f for f in found if (f.patient, f.factor) == (patient, factor)]
    return {n: float(np.mean([f.psnr for f in own if f.method == n])) for n in _methods(own)}


def summary(found: Sequence[MadeFrame], seed: int = 0) -> dict[tuple[int, str], Interval]:
    """Of each factor and method: the mean over patients, each the mean over its frames."""
    return {
        (factor, name): _over_patients([f for f in found if f.factor == factor], name, seed)
        for factor in dict.fromkeys(f.factor for f in found)
        for name in _methods(found)
    }


def over_phases(found: Sequence[MadeFrame], factor: int, name: str) -> list[Interval]:
    """The same in each of PHASES equal parts of the cycle."""
    own = [f for f in found if f.factor == factor]
    parts = [[f for f in own if int(f.phase * PHASES) == i] for i in range(PHASES)]
    return [_over_patients(part, name) for part in parts]


def _over_patients(found: Sequence[MadeFrame], name: str, seed: int = 0) -> Interval:
    own = [f for f in found if f.method == name]
    patients = dict.fromkeys(f.patient for f in own)
    return interval(
        [float(np.mean([f.psnr for f in own if f.patient == p])) for p in patients], seed
    )


def _methods(found: Sequence[MadeFrame]) -> list[str]:
    return list(dict.fromkeys(f.method for f in found))


def table(found: Sequence[MadeFrame]) -> Table:
    means, names = summary(found), _methods(found)
    factors = list(dict.fromkeys(f.factor for f in found))
    rows = [["Method", *(f"PSNR at factor {factor}" for factor in factors)]]
    for name in names:
        cells = (means[factor, name] for factor in factors)
        rows.append([name, *(f"{i.mean:.2f} [{i.low:.2f}, {i.high:.2f}]" for i in cells)])
    return rows


def write(out: Path, found: Sequence[MadeFrame]) -> None:
    """upsample.csv with every frame, upsample.json with means, upsample.md and upsample.png.
    Existing files are replaced."""
    with (out / "upsample.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(found[0])))
        writer.writeheader()
        writer.writerows(asdict(frame) for frame in found)
    factors, names = dict.fromkeys(f.factor for f in found), _methods(found)
    phases = {f: {n: over_phases(found, f, n) for n in names} for f in factors}
    means = summary(found)
    record = {
        f"factor {f}": {
            n: {"mean": asdict(means[f, n]), "phases": [asdict(i) for i in phases[f][n]]}
            for n in names
        }
        for f in factors
    }
    text = json.dumps(strict(record), indent=1, allow_nan=False) + "\n"
    (out / "upsample.json").write_text(text, encoding="utf-8")
    note = "PSNR in dB on each patient's own grid, of the frames that were left out; 95 % intervals"
    (out / "upsample.md").write_text(f"{note}.\n\n{markdown(table(found))}\n", encoding="utf-8")
    phase_chart(out / "upsample.png", phases)
