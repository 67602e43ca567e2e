"""`python -m mstg_jax.evaluation --runs RUN [RUN ...] --out DIR`: runs beside `copy` and `blend`.

Writes results.csv, results.json, table.md, report.html and pictures/.
"""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from mstg_jax import files, runs
from mstg_jax.cli import SampleData
from mstg_jax.command import command, leave
from mstg_jax.config import SAMPLED, Config, MethodName, Sampler, SettingsError

if TYPE_CHECKING:
    from mstg_jax.evaluation.comparing.comparison import Contender

log = logging.getLogger("mstg_jax.evaluation")
# What decides on the patients and on the grid that they are scored on.
SHARED = ("root", "skip_bad", "spacing", "size", "crop", "percentiles", "validation")
SAMPLERS = get_args(Sampler)
PHANTOM = ("phantom_patients", "phantom_size", "phantom_seed")


@dataclass(frozen=True)
class Settings:
    """Score runs on their held-out patients, beside `copy` and `blend`."""

    runs: tuple[str, ...]
    """Folders of the runs; the newest checkpoint of each."""
    out: Path
    """Folder for the results."""
    best: bool = False
    """The checkpoint of each with the best PSNR in validation, instead of the newest one."""
    method: tuple[Literal["register"], ...] = ()
    """Methods without training, each a row besides: register moves both ends to each frame's moment
    until they look alike."""
    sampler: tuple[str, ...] = ()
    """Of runs that sample frames by reverse diffusion a row for each of these, NAME-STEPS: ddim-50,
    ddpm-1000, dpm++-20, heun-20, or analytic-25, which is ddpm with the optimal variance."""
    data: SampleData = field(default_factory=SampleData)
    protocol: Literal["resampled", "native"] = "resampled"
    """resampled: the runs' own grid, ED's range as 1 (DDM, MSTG). native: the patient's own grid in
    128 x 128 x 32, every frame's range as 1 (UVI-Net)."""
    task: Literal["between", "upsample"] = "between"
    """between: the frames from ED to ES, made of these two. upsample: whole cycles of which every
    `factor`-th frame is kept, beside interpolation in time, linear and by a periodic spline."""
    factor: tuple[int, ...] = (2, 4)
    likeness_threshold: float = 0.95
    """Correlation with a training frame from which a generated frame counts as a repetition."""
    seed: int = 0


@command("evaluation")
def main(argv: Sequence[str]) -> int:
    import tyro  # Not above: from `command` on Ctrl-C shows no traceback.

    settings = tyro.cli(Settings, args=argv, prog="python -m mstg_jax.evaluation")
    check(settings)
    evaluate(settings)
    return 0


def check(settings: Settings) -> None:
    """Raises UserError on flags that cannot work; makes the folder of the results."""
    if not settings.runs:
        raise SettingsError("--runs names no run; it needs the folder of at least one")
    if not 0 < settings.likeness_threshold <= 1:
        raise SettingsError(
            f"--likeness-threshold is {settings.likeness_threshold}, a correlation; it must lie in "
            "(0, 1]"
        )
    if not settings.factor or min(settings.factor) < 2:
        raise SettingsError(f"--factor is {settings.factor}; each must be 2 or more")
    files.usable("--out", settings.out)


def evaluate(settings: Settings) -> None:
    configs = read_configs(settings)
    rows = rows_of(configs, settings)
    from mstg_jax.data.pipeline import load_examples
    from mstg_jax.evaluation import records
    from mstg_jax.evaluation.comparing.comparison import compare
    from mstg_jax.evaluation.showing.report import write_report
    from mstg_jax.evaluation.showing.tables import markdown
    from mstg_jax.evaluation.upsampling import table, upsample, write
    from mstg_jax.methods import TRIVIAL
    from mstg_jax.methods.platform import prepare

    shared = replace(next(iter(configs.values())).data, depth="resampled")
    prepare(*configs.values())
    contenders = load(rows, settings)
    training, validation = load_examples(shared)
    if settings.task == "upsample":
        made = upsample(
            [c for c in contenders if c.name not in TRIVIAL],
            validation,
            settings.factor,
            settings.seed,
        )
        print(f"\n{markdown(table(made))}\n")  # first, for the disk may refuse what took so long
        with files.writing("--out", settings.out):
            write(settings.out, made)
        print(settings.out / "upsample.png")
        return
    log.info(f"{len(contenders)} methods, {len(validation)} patients, protocol {settings.protocol}")
    results = compare(
        contenders,
        training,
        validation,
        protocol=settings.protocol,
        threshold=settings.likeness_threshold,
        seed=settings.seed,
    )
    results = replace(results, data={name: getattr(shared, name) for name in SHARED})
    print(f"\n{records.tables(results)}")  # first, for the disk may refuse what took so long
    with files.writing("--out", settings.out):
        records.write(settings.out, results)
        report = write_report(settings.out, results, contenders, validation)
    print(report)


def read_configs(settings: Settings) -> dict[Path, Config]:
    """The settings of every run, with --data.root in them.

    Raises FileNotFoundError for a folder that is no run, SettingsError if the runs' settings of the
    data differ.
    """
    configs: dict[Path, Config] = {}
    for name in settings.runs:
        run = runs.find(name)
        if run.resolve() in {other.resolve() for other in configs}:
            raise SettingsError(f"--runs names {run} twice; each run is one row")
        config = runs.read_config(run)
        if settings.data.root is not None:
            config = replace(config, data=replace(config.data, root=settings.data.root))
        configs[run] = config
    (first, expected), *others = configs.items()
    for run, config in others:
        names = SHARED if expected.data.root is not None else SHARED + PHANTOM
        for name in names:
            found, wanted = (getattr(c.data, name) for c in (config, expected))
            if found != wanted:
                raise SettingsError(
                    f"{run} has data.{name} {found} but {first} has {wanted}; methods are compared "
                    "on the same patients and grid"
                    + (": name one folder with --data.root" if name == "root" else "")
                )
    return configs


class Row(NamedTuple):
    """A run as it is compared; sampler: as --sampler names it, empty for the run's own."""

    run: Path
    config: Config
    sampler: str = ""


def rows_of(configs: dict[Path, Config], settings: Settings) -> list[Row]:
    return [row for run, config in configs.items() for row in with_samplers(run, config, settings)]


def with_samplers(run: Path, config: Config, settings: Settings) -> list[Row]:
    """The run with its own sampler or, where it samples, a row for each that is asked for."""
    if not settings.sampler or config.method not in SAMPLED:
        return [Row(run, config)]
    rows = []
    for asked in settings.sampler:
        name, _, steps = asked.rpartition("-")
        if name not in (*SAMPLERS, "analytic") or not steps.isdecimal():
            raise SettingsError(
                f"--sampler {asked}: it needs a name and a number of steps, as in ddim-50; there "
                f"are {', '.join(SAMPLERS)} and analytic"
            )
        chosen: dict[str, Any] = {"sampler": name, "eta": 0.0, "sampler_steps": int(steps)}
        if config.diffusion.variance != "learned":
            chosen["variance"] = "optimal" if name == "analytic" else "posterior"
        if name == "analytic":
            chosen["sampler"] = "ddpm"
        diffusion = replace(config.diffusion, **chosen)
        diffusion.check()
        rows.append(Row(run, replace(config, diffusion=diffusion), asked))
    return rows


def load(rows: Sequence[Row], settings: Settings) -> "list[Contender]":
    """The runs, named after their folders, then the untrained methods, `copy` and `blend`."""
    from mstg_jax.data.pipeline import load_examples
    from mstg_jax.evaluation.comparing.comparison import Contender
    from mstg_jax.methods import TRIVIAL, make_method, new_model
    from mstg_jax.training.loading import load as load_run
    from mstg_jax.training.state import parameter_count

    untrained: tuple[MethodName, ...] = settings.method
    others = (*untrained, *TRIVIAL)
    runs_by_name = Counter(run.resolve().name for run in {row.run for row in rows})
    contenders = []
    for run, config, sampler in rows:
        method, model, step = load_run(run, config, best=settings.best)
        name = run.resolve().name
        alone = runs_by_name[name] == 1 and name not in (*others, "truth")
        name = " ".join(filter(None, (name if alone else str(run), sampler)))
        count = parameter_count(model[1])
        own = load_examples(config.data)[1] if config.data.depth == "native" else []
        patients = {example.id: example for example in own}
        contenders.append(Contender(name, method, model, count, str(run), step, patients))
    any_config = rows[0].config
    native = load_examples(replace(any_config.data, depth="native"))[1] if untrained else []
    slices = {example.id: example for example in native}
    for name in others:
        method = make_method(replace(any_config, method=name))
        own = slices if name in untrained else {}
        contenders.append(Contender(name, method, new_model(method, seed=0), patients=own))
    return contenders


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
