"""The folder of a run: where it is and what it holds. Standard library only.

runs/mstg-20260131-120000/
    config.json      every setting
    metrics.jsonl    one line per logged step and per validation
    tensorboard/     the same for TensorBoard
    pictures/        ED, generated frames, truth and error at each validation
    checkpoints/     weights, averaged weights, optimiser, data position (orbax)
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mstg_jax import files
from mstg_jax.config import Config, SettingsError, from_json, to_json

ROOT = Path("runs")


def create(config: Config, flag: str = "--run") -> Path:
    """A new folder with the settings in it; of processes that ask for the same one, one gets it.

    flag: what names the folder. Raises FileExistsError if it already holds a run, UserError if it
    cannot be written.
    """
    with files.writing(flag, config.run or ROOT):
        folder = Path(config.run) if config.run else _own_folder(config.method)
        folder.mkdir(parents=True, exist_ok=True)
        created = files.create_text(folder / "config.json", _text(config))
    if not created:
        raise _taken(folder, flag)
    return folder


def check_free(config: Config, flag: str = "--run") -> None:
    """Raises FileExistsError, before long work, if the named folder holds a run."""
    if config.run and (Path(config.run) / "config.json").exists():
        raise _taken(Path(config.run), flag)


def _taken(folder: Path, flag: str) -> FileExistsError:
    return FileExistsError(
        f"{folder} already holds a run: continue it with --resume --run {folder}, "
        f"or give another folder to {flag}"
    )


def _own_folder(method: str) -> Path:
    """Named after method and time, with a number where another run of this second has the name."""
    name, number = f"{method}-{time.strftime('%Y%m%d-%H%M%S')}", 1
    ROOT.mkdir(parents=True, exist_ok=True)
    while True:
        folder = ROOT / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def remember(folder: Path, config: Config) -> None:
    """Store what a resumed run is to do from now on, so that the next --resume does it, too.

    How it was started (run, resume, cluster) stays as it was.
    """
    stored, path = read_config(folder), folder / "config.json"
    config = replace(config, run=stored.run, resume=stored.resume, cluster=stored.cluster)
    if config == stored:
        return
    with files.writing("--run", folder):
        times = path.stat()
        files.write_text(path, _text(config))
        # `find` takes the run that was started last for the newest, not the one resumed last.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _text(config: Config) -> str:
    return json.dumps(to_json(config), indent=2) + "\n"


def find(name: str | None) -> Path:
    """The named run, or the newest one below runs/. Raises FileNotFoundError if there is none."""
    if name is not None:
        if not (Path(name) / "config.json").is_file():
            raise FileNotFoundError(f"{name} is not a run: it has no config.json")
        return Path(name)
    found = sorted(ROOT.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(
            f"no run below {ROOT.resolve()}: train one with `python train.py`, or give --run"
        )
    return found[-1].parent


def read_config(folder: Path) -> Config:
    """Raises SettingsError naming the file if it is not a run's config."""
    path = folder / "config.json"
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(f"{path} cannot be read as a run's settings: {error}") from error
