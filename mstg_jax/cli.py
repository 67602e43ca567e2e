"""The command lines of train.py and sample.py; nothing here imports jax."""

import math
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from mstg_jax import runs
from mstg_jax.config import (
    PRESETS,
    ClusterConfig,
    Config,
    Group,
    Sampler,
    SettingsError,
    differences,
)

# What may change when a run is continued; everything else would make it another run.
RESUMABLE = (
    "run",
    "resume",
    "data.root",
    "data.cache",
    "train.steps",
    "train.validate_every",
    "train.validate_patients",
    "train.save_every",
    "train.keep",
    "train.log_every",
    "train.accumulate",
    "train.minutes",
    "train.profile",
    "mesh.data",
    "mesh.space",
    *(f"cluster.{field.name}" for field in fields(ClusterConfig)),
)


def parse_train(argv: Sequence[str]) -> Config:
    """`[PRESET] [--flags]`; with --resume the flags start from the run's own settings.

    Raises SettingsError, FileExistsError or FileNotFoundError on flags that cannot work.
    """
    args = list(argv)
    if "--resume" in args:
        config = _resumed(args)
    else:
        config = parse_preset(args, "train.py", _DESCRIPTION, _SWEEPS)
    config.check()
    if not config.resume:
        runs.check_free(config)
    return config


def parse_preset(argv: Sequence[str], prog: str, description: str, more: str) -> Config:
    """`[PRESET] [--flags]`, demo by default. more: said of the flags that are not the preset's."""
    import tyro  # Not above: from `command` on Ctrl-C shows no traceback.

    args = list(argv)
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
        args.insert(0, "demo")
    own = {name: (f"{text}\n\n{more}", preset) for name, (text, preset) in PRESETS.items()}
    return tyro.extras.overridable_config_cli(
        PRESETS if args[0] in ("-h", "--help") else own,
        args=args,
        prog=prog,
        description=f"{description} {more}",
    )


_DESCRIPTION = (
    "Train a method. Presets: demo (default), acdc-small, acdc-between, acdc-cine, paper, ddm, "
    "direct, and a -tiny twin of each; `train.py PRESET --help` lists the flags. `train.py "
    "--resume [--run DIR]` continues."
)
_SWEEPS = (
    "--sweep SETTING=VALUE,VALUE trains a run for each value, several of them for each "
    "combination; --sweep.each changes one at a time, --sweep.zip all together, --sweep.list "
    "prints one command for each, --sweep.cell NAME trains one."
)


def _resumed(args: list[str]) -> Config:
    import tyro

    before = ArgumentParser(add_help=False)
    before.add_argument("--run")
    known, _ = before.parse_known_args(args)
    folder = runs.find(known.run)
    stored = runs.read_config(folder)
    if args and args[0] in PRESETS:
        args = args[1:]  # the run has its settings; the preset it began with is harmless
    # Whether there are other processes is no matter of the run: it may go on with any number.
    default = replace(stored, run=str(folder), cluster=ClusterConfig())
    config = tyro.cli(Config, default=default, args=args, prog="train.py --resume")
    changed = [d for d in differences(stored, config) if d.split(":")[0] not in RESUMABLE]
    if changed:
        raise SettingsError(
            f"--resume: {folder} was trained with other settings ({'; '.join(changed)}); leave "
            "those flags out, or start a new run"
        )
    return replace(config, run=str(Path(folder)))


@dataclass(frozen=True)
class SampleData:
    root: str | None = None
    """Folder in the ACDC layout; by default the data that the run was trained on."""


@dataclass(frozen=True)
class SampleConfig:
    run: str | None = None
    """Folder of the run; by default the newest one below runs/."""
    best: bool = False
    """The checkpoint with the best PSNR in validation, instead of the newest one."""
    data: SampleData = field(default_factory=SampleData)
    patient: tuple[str, ...] = ()
    """Patients by their folder names; by default the run's validation patients."""
    ed: Path | None = None
    """A 3D NIfTI file at end-diastole, with --es, instead of patients from a folder. The results'
    folder is named after the file's folder, the file, and a hash of both images: p1-ED-142b4135."""
    es: Path | None = None
    duration: float | None = None
    """Time from --ed to --es in ms; without it the results' time step has no unit."""
    cine: Path | None = None
    """A 4D NIfTI file, instead of patients: every gap between two of its frames is filled."""
    factor: int = 2
    """With --cine, how many times as many frames."""
    open: bool = False
    """With --cine, leave the gap from the last frame to the first."""
    cycle: bool = False
    """A whole beat instead of ED to ES, closed from the last key frame to the first: of ED and ES,
    or of --key."""
    key: tuple[Path, ...] = ()
    """3D NIfTI files in the order of time, two or more, evenly spread over what is generated; two
    with --cycle are ED and ES at their usual times, 0.38 of the beat apart."""
    frames: int | None = None
    """Frames from ED to ES, or with --cycle or --key of all; by default as many as the patient has,
    and 30 of files. Metrics need the default."""
    out: Path | None = None
    """Folder for the results, one folder per patient; by default samples/<run>. A patient's earlier
    results there are replaced, all at once."""
    labels: bool = False
    """Also write ED's labels warped to every frame."""
    flow: bool = False
    """Also write the displacement fields."""
    refine: int = 0
    """Of method between: steps by which the moved ends are brought together on the patient in hand,
    without training; 60 are a start."""
    symmetries: bool = False
    """Of method between: frames are means over the flips and transposes in plane; eight times the
    work."""
    sampler: Sampler | None = None
    """Of methods that sample frames by reverse diffusion (direct, ukan), in place of the run's."""
    sampler_steps: int | None = None
    """The same for the number of its steps."""
    eta: float | None = None
    """The same for the noise of ddim's steps, 0 to 1."""
    variance: Literal["posterior", "optimal"] | None = None
    """The same for the variance of ddpm's and ddim's noise; see train.py's diffusion.variance."""
    spacing: Literal["uniform", "nonuniform"] | None = None
    """The same for the sampler's steps."""
    group: Group | None = None
    """New patients of this class, of a run of method direct that makes ED, ES and labels (see
    docs/family.md), written in ACDC's layout."""
    ef: float | None = None
    """New patients with this ejection fraction, in percent."""
    count: int | None = None
    """How many new patients; with --group or --ef one by default."""
    guidance: float | None = None
    """In place of the run's direct.guidance: how strongly conditions are obeyed, 1 as trained."""
    memory: str | None = None
    """Of method direct: sample in blocks that overlap, as large as fit into so much, as in 4GB."""
    seed: int = 0

    @property
    def new(self) -> bool:
        """Whether new patients are made."""
        return any(x is not None for x in (self.group, self.ef, self.count))


def parse_sample(argv: Sequence[str]) -> SampleConfig:
    """Raises SettingsError on flags that contradict one another."""
    import tyro

    config = tyro.cli(
        SampleConfig,
        args=argv,
        prog="sample.py",
        description="Generate the frames from ED to ES: NIfTI, GIF, PNG and metrics per patient.",
    )
    _check_source(config)
    if (config.ed is None) != (config.es is None):
        raise SettingsError("--ed and --es go together: one 3D NIfTI file each")
    if config.ed is not None and config.labels:
        raise SettingsError("--labels warps a patient's own labels; --ed and --es have none")
    if config.duration is not None and (config.ed is None or not 0 < config.duration < math.inf):
        raise SettingsError(
            f"--duration is {config.duration}; it is the time from --ed to --es in ms, greater "
            "than 0"
        )
    if config.ef is not None and not 0 <= config.ef <= 100:
        raise SettingsError(f"--ef is {config.ef}; it is in percent, 0 to 100")
    if config.count is not None and config.count < 1:
        raise SettingsError(f"--count is {config.count}, but it must be 1 or more")
    if config.refine < 0:
        raise SettingsError(f"--refine is {config.refine}; it is a number of steps, 0 or more")
    if config.frames is not None and config.frames < 2:
        raise SettingsError(f"--frames is {config.frames}, but ED and ES alone make 2")
    return config


def _check_source(config: SampleConfig) -> None:
    """Of the flags that say what frames lie between."""
    files = {"--cine": config.cine, "--key": config.key, "--ed and --es": config.ed}
    files |= {"--patient": config.patient, "--data.root": config.data.root}
    given = [name for name, value in files.items() if value]
    if config.new and (set(given) & {"--cine", "--key", "--ed and --es"} or config.cycle):
        raise SettingsError("--group, --ef and --count make new patients, of no files")
    if len(given) > 1 and given != ["--patient", "--data.root"]:
        raise SettingsError(f"{' and '.join(given)} each name what to sample; give one of them")
    if (config.factor != 2 or config.open) and config.cine is None:
        raise SettingsError("--factor and --open are for --cine")
    if config.cine is not None and config.factor < 2:
        raise SettingsError(f"--factor is {config.factor}; with 2 or more a cine becomes denser")
    if len(config.key) == 1:
        raise SettingsError("--key names one file; frames lie between two or more")
    beat = config.cine is not None or bool(config.key) or config.cycle
    if beat and (config.labels or config.flow):
        raise SettingsError("--labels and --flow are for the frames from ED to ES")
    if config.cine is not None and (config.cycle or config.frames is not None):
        raise SettingsError("--cine takes --factor, and neither --cycle nor --frames")
