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
from mstg_jax.config import SAMPLED, Config, SettingsError

if TYPE_CHECKING:
    from mstg_jax.data.patient import Patient
    from mstg_jax.methods import Method
    from mstg_jax.methods.base import Model

log = logging.getLogger("mstg_jax.sample")


@command("sample.py")
def main(argv: Sequence[str]) -> int:
    options = parse_sample(argv)
    run = runs.find(options.run)
    config = settings_of(options, run, runs.read_config(run))
    out = options.out or Path("samples") / run.resolve().name
    # What is wrong with these is known before JAX starts.
    files.usable("--out", out)
    if options.new:
        sample_hearts(options, run, config, out)
    elif options.cine is not None:
        sample_cine(options, run, config, options.cine, out)
    elif options.cycle or options.key:
        sample_beats(options, run, config, chosen_patients(options, config), out)
    else:
        sample_patients(options, run, config, chosen_patients(options, config), out)
    return 0


def settings_of(options: SampleConfig, run: Path, config: Config) -> Config:
    """The run's, with what is asked for in their place. Raises SettingsError."""
    if options.data.root is not None:
        config = replace(config, data=replace(config.data, root=options.data.root))
    if options.refine or options.symmetries:
        if config.method != "between":
            raise SettingsError(
                f"--refine and --symmetries are for method between; {run} is {config.method}"
            )
        motion = replace(config.motion, refine=options.refine, symmetries=options.symmetries)
        config = replace(config, motion=motion)
    flags = ("sampler", "sampler_steps", "eta", "variance", "spacing")
    if options.guidance is not None:
        if config.method != "direct":
            raise SettingsError(f"--guidance is for method direct; {run} is {config.method}")
        config = replace(config, direct=replace(config.direct, guidance=options.guidance))
        config.direct.check()
    asked = {name: getattr(options, name) for name in flags}
    given = {name: value for name, value in asked.items() if value is not None}
    if given:
        if config.method not in SAMPLED:
            raise SettingsError(
                f"--sampler, --sampler-steps, --eta, --variance and --spacing are for methods "
                f"{' and '.join(SAMPLED)}; {run} is {config.method}"
            )
        if options.variance is not None and config.diffusion.variance == "learned":
            raise SettingsError(f"--variance is {options.variance}, but {run} has learned its own")
        if options.sampler is not None:
            given.setdefault("eta", 0.0)  # the run's is its own sampler's
        diffusion = replace(config.diffusion, **given)
        diffusion.check()
        config = replace(config, diffusion=diffusion)
    return config


def loaded(
    config: Config, run: Path, out: Path, best: bool, limit: str | None = None
) -> "tuple[Method, Model]":
    """The run's method and its newest weights, or its best; starts JAX."""
    from mstg_jax.methods.platform import prepare
    from mstg_jax.training.loading import load

    prepare(config)
    method, model, step = load(run, config, best=best)
    if limit is not None:
        from mstg_jax.methods.direct import Direct
        from mstg_jax.methods.memory import parse, within

        if not isinstance(method, Direct):
            raise SettingsError(f"--memory is for method direct; {run} is {config.method}")
        method = within(parse(limit), method, model, config.data.grid[0], method.frames)
    log.info(f"{config.method} of {run}, step {step} -> {out}")
    return method, model


def sample_hearts(options: SampleConfig, run: Path, config: Config, out: Path) -> None:
    """New patients, in a folder of ACDC's layout."""
    from mstg_jax import hearts
    from mstg_jax.data.pipeline import example_of, load_examples
    from mstg_jax.evaluation.comparing.likeness import REPEATED, nearest, stacks, summarise
    from mstg_jax.evaluation.showing.hearts import hearts_figure

    method, model = loaded(config, run, out, options.best, options.memory)
    method, (size, spacing) = hearts.check(method), config.data.grid
    models = []
    if "labels" in config.direct.given:
        models = [example_of(p, config.data) for p in chosen_patients(options, config)]
    training = stacks(load_examples(config.data)[0], size[0])
    made, matches, records = {}, {}, {}
    for number in range(options.count or len(models) or 1):
        heart = hearts.new_heart(
            method,
            model,
            size,
            seed=options.seed,
            number=number,
            group=options.group,
            ef=None if options.ef is None else options.ef / 100,
            like=models[number % len(models)] if models else None,
        )
        name = f"patient{number + 1:03d}"
        with files.writing("--out", out):
            hearts.write_heart(out / name, heart, spacing, options.group)
        made[name] = heart
        matches[name] = nearest(heart.frames, heart.frames.max(0) > 0, training)
        records[name] = {"ejection_fraction": heart.ejection_fraction} | matches[name][0]._asdict()
        print(f"{name}: EF {heart.ejection_fraction:.0%} -> {out / name}")
    alike = summarise(matches, REPEATED)
    print(
        f"most alike a training frame: {alike.closest}, correlation {alike.max:.3f}; "
        f"{alike.share:.0%} of the frames at {REPEATED} or more"
    )
    with files.writing("--out", out):
        write_metrics(out, records)
        hearts_figure(out / "hearts.png", made, spacing)


def sample_cine(options: SampleConfig, run: Path, config: Config, path: Path, out: Path) -> None:
    """A denser cine."""
    from mstg_jax.cycles import denser
    from mstg_jax.data.cine import read_cine, write_cine
    from mstg_jax.evaluation.outputs import draw_beat, replacing

    cine = read_cine(path, open_end=options.open)
    patient, factor = cine.patient, options.factor
    for note in patient.notes:
        log.warning(note)
    frames = denser(
        *loaded(config, run, out, options.best, options.memory),
        patient,
        config.data,
        factor,
        closed=cine.closed,
        seed=options.seed,
    )
    folder = out / named(patient, path)
    with files.writing("--out", out), replacing(folder) as new:
        write_cine(new / "cine.nii.gz", cine, frames, factor)
        draw_beat(new, config.method, frames, patient.spacing)
    closed = "with the end of the cycle" if cine.closed else "the gap at its end left open"
    print(f"{patient.id}: {len(patient.frames)} frames to {len(frames)}, {closed} -> {folder}")


def sample_beats(
    options: SampleConfig, run: Path, config: Config, patients: "Iterable[Patient]", out: Path
) -> None:
    """Frames between key frames: a whole beat, or from the first key to the last."""
    from mstg_jax.cycles import beat, placed
    from mstg_jax.data.export import write_sequence
    from mstg_jax.evaluation.outputs import draw_beat, replacing

    model = loaded(config, run, out, options.best, options.memory)
    for patient in patients:
        keys, at, count, stride = placed(patient, options.frames, closed=options.cycle)
        made = beat(*model, keys, config.data, at, count, closed=options.cycle, seed=options.seed)
        folder = out / patient.id
        with files.writing("--out", out), replacing(folder) as new:
            write_sequence(new / "cycle.nii.gz", made, patient, stride)
            draw_beat(new, config.method, made, patient.spacing)
        where = ", ".join(f"{time:g}" for time in at)
        print(f"{patient.id}: {count} frames, key frames at {where} -> {folder}")


def named(patient: "Patient", path: Path) -> str:
    """Many patients' files are called ED.nii.gz, and their folders are alike elsewhere."""
    return f"{path.resolve().parent.name}-{patient.id}-{patient.digest[:8]}"


def sample_patients(
    options: SampleConfig, run: Path, config: Config, patients: "Iterable[Patient]", out: Path
) -> None:
    import numpy as np

    from mstg_jax.data.pipeline import example_of
    from mstg_jax.evaluation.as_json import average_record, score_record
    from mstg_jax.evaluation.outputs import draw, replacing, write_volumes
    from mstg_jax.evaluation.scoring.protocol import score_sequence
    from mstg_jax.evaluation.scoring.resampled import resampled_sequence, resampled_truth
    from mstg_jax.evaluation.scoring.scores import Score, average
    from mstg_jax.evaluation.showing.tables import score_table
    from mstg_jax.methods import TRIVIAL, generate_sequence, make_method, new_model

    if (options.labels or options.flow) and not make_method(config).deforms:
        raise SettingsError(
            f"{config.method} makes no displacement field: leave --labels and --flow out"
        )
    methods = {config.method: loaded(config, run, out, options.best, options.memory)}
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
            name: generate_sequence(*other, ed, es, gammas, options.seed, example.span)
            for name, other in methods.items()
        }
        folder, own = out / patient.id, made[config.method]
        scored = len(gammas) == len(example.gammas) > 2
        truth = example.frames if scored else None
        results = {}
        if scored:
            reference = resampled_truth(example)
            results = {
                name: score_sequence(reference, resampled_sequence(example, m))
                for name, m in made.items()
            }
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
    """The files of key frames, the named patients, or the run's validation patients."""
    from mstg_jax.data.acdc import find_patients, read_patient
    from mstg_jax.data.nifti import DataError
    from mstg_jax.data.pair import read_keys
    from mstg_jax.data.pipeline import data_root, load_examples

    paths = options.key
    if options.ed is not None and options.es is not None:
        paths = options.ed, options.es
    if paths:
        keys = read_keys(paths, options.duration)
        for note in keys.notes:
            log.warning(note)
        return [replace(keys, id=named(keys, paths[0]))]
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
