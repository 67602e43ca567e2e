"""Generate frame sequences: `python sample.py [--run DIR] [--data.root DIR] [--patient ID ...]`."""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstg_jax import files, runs
from mstg_jax.cli import SampleConfig, parse_sample
from mstg_jax.command import command, leave
from mstg_jax.config import Config, SettingsError

if TYPE_CHECKING:
    from mstg_jax.data.patient import Patient

log = logging.getLogger("mstg_jax.sample")


@command("sample.py")
def main(argv: Sequence[str]) -> int:
    options = parse_sample(argv)
    run = runs.find(options.run)
    config = runs.read_config(run)
    if options.data.root is not None:
        config = replace(config, data=replace(config.data, root=options.data.root))
    out = options.out or Path("samples") / run.resolve().name
    # What is wrong with these is known before JAX starts.
    files.usable("--out", out)
    patients = chosen_patients(options, config)
    sample_patients(options, run, config, patients, out)
    return 0


def sample_patients(
    options: SampleConfig, run: Path, config: Config, patients: "Iterable[Patient]", out: Path
) -> None:
    import numpy as np

    from mstg_jax.data.pipeline import example_of
    from mstg_jax.evaluation.as_json import average_record, score_record
    from mstg_jax.evaluation.outputs import draw, replacing, write_volumes
    from mstg_jax.evaluation.scoring.protocol import score_sequence
    from mstg_jax.evaluation.scoring.scores import Score, average
    from mstg_jax.evaluation.showing.tables import score_table
    from mstg_jax.methods import TRIVIAL, generate_sequence, make_method, new_model
    from mstg_jax.methods.platform import prepare
    from mstg_jax.training.checkpoint import load_model

    prepare(config)
    method = make_method(config)
    if (options.labels or options.flow) and not method.deforms:
        raise SettingsError(
            f"{config.method} makes no displacement field: leave --labels and --flow out"
        )
    model, step = load_model(run, config, method)
    log.info(f"{config.method} of {run}, step {step} -> {out}")
    methods = {config.method: (method, model)}
    for name in TRIVIAL:
        trivial = make_method(replace(config, method=name))
        methods[name] = (trivial, new_model(trivial, seed=0))

    scores: dict[str, list[Score]] = {name: [] for name in methods}
    for patient in patients:
        example = example_of(patient, config.data)
        ed, es, gammas = example.frames[0], example.frames[-1], example.gammas
        if options.frames is not None:
            gammas = np.linspace(0, 1, options.frames, dtype=np.float32)
        made = {
            name: generate_sequence(*other, ed, es, gammas, options.seed)
            for name, other in methods.items()
        }
        folder, own = out / patient.id, made[config.method]
        scored = len(gammas) == len(example.gammas) > 2
        truth = example.frames if scored else None
        results = {name: score_sequence(example, m) for name, m in made.items()} if scored else {}
        with files.writing("--out", out), replacing(folder) as new:
            write_volumes(new, patient, example, own, labels=options.labels, flow=options.flow)
            draw(new, config.method, example, truth, gammas, made)
            if results:
                write_metrics(new, {name: score_record(s) for name, s in results.items()})
        for name, result in results.items():
            scores[name].append(result)
        print(f"{patient.id}: {len(gammas)} frames -> {folder}")
    if scores[config.method]:
        means = {name: average(values) for name, values in scores.items()}
        with files.writing("--out", out):
            write_metrics(out, {name: average_record(m) for name, m in means.items()})
        print(f"\n{score_table(means)}")


def write_metrics(folder: Path, found: dict[str, Any]) -> None:
    files.write_text(folder / "metrics.json", json.dumps(found, indent=2) + "\n")


def chosen_patients(options: SampleConfig, config: Config) -> "Iterable[Patient]":
    """The pair of files, the named patients, or the run's validation patients."""
    from mstg_jax.data.acdc import find_patients, read_patient
    from mstg_jax.data.nifti import DataError
    from mstg_jax.data.pair import read_pair
    from mstg_jax.data.pipeline import data_root, load_examples

    if options.ed is not None and options.es is not None:
        pair = read_pair(options.ed, options.es, options.duration)
        for note in pair.notes:
            log.warning(note)
        parent = options.ed.resolve().parent.name
        # Many patients' files are called ED.nii.gz, and their folders are alike elsewhere.
        return [replace(pair, id=f"{parent}-{pair.id}-{pair.digest[:8]}")]
    if not options.patient:
        return (read_patient(example.folder) for example in load_examples(config.data)[1])
    root = data_root(config.data)
    folders = {f.name: f for part in find_patients(root).values() for f in part}
    if missing := [name for name in options.patient if name not in folders]:
        raise DataError(
            f"{root} has no {', '.join(missing)}; it has {len(folders)} patients, "
            f"{min(folders)} to {max(folders)}"
        )
    return (read_patient(folders[name]) for name in options.patient)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
