"""Generate frame sequences: `python sample.py [--run DIR] [--data.root DIR] [--patient ID ...]`."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstg_jax import runs
from mstg_jax.cli import SampleConfig, parse_sample
from mstg_jax.config import Config, SettingsError

if TYPE_CHECKING:
    from mstg_jax.data.acdc import Patient


def main(argv: Sequence[str]) -> int:
    options = parse_sample(argv)
    from mstg_jax.data.acdc import DataError

    try:
        run = runs.find(options.run)
        config = runs.read_config(run)
        if options.data.root is not None:
            config = replace(config, data=replace(config.data, root=options.data.root))
        sample(options, run, config)
    except (DataError, FileNotFoundError, SettingsError) as error:
        print(f"sample.py: {error}", file=sys.stderr)
        return 1
    return 0


def sample(options: SampleConfig, run: Path, config: Config) -> None:
    import numpy as np

    from mstg_jax.data.pipeline import example_of
    from mstg_jax.evaluation.outputs import draw, score_sequence, write_volumes
    from mstg_jax.evaluation.protocol import average
    from mstg_jax.evaluation.tables import score_table
    from mstg_jax.methods import TRIVIAL, generate_sequence, make_method, new_model
    from mstg_jax.methods.platform import keep_programs
    from mstg_jax.training.checkpoint import load_model

    keep_programs(config.data.cache)
    method = make_method(config)
    model, step = load_model(run, config, method)
    out = options.out or Path("samples") / run.name
    print(f"{config.method} of {run}, step {step} -> {out}")
    methods = {config.method: (method, model)}
    for name in TRIVIAL:
        trivial = make_method(replace(config, method=name))
        methods[name] = (trivial, new_model(trivial, seed=0))

    scores: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for patient in chosen_patients(options, config):
        example = example_of(patient, config.data)
        ed, es, gammas = example.frames[0], example.frames[-1], example.gammas
        if options.frames is not None:
            gammas = np.linspace(0, 1, options.frames, dtype=np.float32)
        made = {
            name: generate_sequence(*other, ed, es, gammas, options.seed)
            for name, other in methods.items()
        }
        folder = out / patient.id
        folder.mkdir(parents=True, exist_ok=True)
        own = made[config.method]
        write_volumes(folder, patient, example, own, labels=options.labels, flow=options.flow)
        scored = len(gammas) == len(example.gammas) > 2
        draw(folder, config.method, example, example.frames if scored else None, gammas, made)
        if scored:
            results = {name: score_sequence(example, m) for name, m in made.items()}
            (folder / "metrics.json").write_text(json.dumps(results, indent=2) + "\n")
            for name, result in results.items():
                scores[name].append(result)
        print(f"{patient.id}: {len(gammas)} frames -> {folder}")
    if scores[config.method]:
        means = {name: average(values) for name, values in scores.items()}
        (out / "metrics.json").write_text(json.dumps(means, indent=2) + "\n")
        print(f"\n{score_table(means)}")


def chosen_patients(options: SampleConfig, config: Config) -> "Iterator[Patient]":
    """The pair of files, the named patients, or the run's validation patients."""
    from mstg_jax.data.acdc import DataError, find_patients, read_patient
    from mstg_jax.data.pair import read_pair
    from mstg_jax.data.pipeline import data_root, load_examples

    if options.ed is not None and options.es is not None:
        yield read_pair(options.ed, options.es)
        return
    if not options.patient:
        for example in load_examples(config.data)[1]:
            yield read_patient(example.folder)
        return
    root = data_root(config.data)
    folders = {f.name: f for part in find_patients(root).values() for f in part}
    if missing := [name for name in options.patient if name not in folders]:
        raise DataError(
            f"{root} has no {', '.join(missing)}; it has {len(folders)} patients, "
            f"{min(folders)} to {max(folders)}"
        )
    for name in options.patient:
        yield read_patient(folders[name])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
