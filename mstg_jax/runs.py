"""The folder of a run: where it is and what it holds. Standard library only.

runs/mstg-20260131-120000/
    config.json      every setting
    metrics.jsonl    one line per logged step and per validation
    tensorboard/     the same for TensorBoard
    pictures/        ED, generated frames, truth and error at each validation
    checkpoints/     weights, averaged weights, optimiser, data position (orbax)
"""

import json
import time
from pathlib import Path

from mstg_jax.config import Config, SettingsError, from_json, to_json

ROOT = Path("runs")


def create(config: Config) -> Path:
    """A new folder with the settings in it. Raises FileExistsError if it already holds a run."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(config.run) if config.run else ROOT / f"{config.method}-{stamp}"
    if (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} already holds a run: continue it with --resume --run {folder}, "
            "or give another folder to --run"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_json(config), indent=2) + "\n")
    return folder


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
        return from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{path} cannot be read as a run's settings: {error}") from error
