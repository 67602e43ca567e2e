"""`python -m mstg_jax.sweep report DIR [DIR ...]`: the table of sweeps, or of any runs."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from mstg_jax import files, runs
from mstg_jax.cli import SampleData
from mstg_jax.command import command, leave
from mstg_jax.config import SettingsError

log = logging.getLogger("mstg_jax.sweep")


@dataclass(frozen=True)
class Settings:
    """Compare the runs of sweeps on their validation patients."""

    what: tyro.conf.Positional[Literal["report"]]
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of sweeps, or of runs; the first cell is what the others are compared with."""
    out: Path | None = None
    """Folder for the results; by default the first of the folders."""
    data: SampleData = field(default_factory=SampleData)


@command("sweep")
def main(argv: Sequence[str]) -> int:
    settings = tyro.cli(Settings, args=argv, prog="python -m mstg_jax.sweep")
    if not settings.folders:
        raise SettingsError("report names no folder; it needs that of a sweep or run")
    out = settings.out or settings.folders[0]
    files.usable("--out", out)
    report(settings.folders, out, settings.data.root)
    return 0


def report(folders: Sequence[Path], out: Path, root: str | None) -> None:
    """Raises SettingsError if a folder is neither a sweep nor a run, or nothing is finished."""
    from mstg_jax.methods.platform import prepare
    from mstg_jax.sweep.report import text, write
    from mstg_jax.sweep.scores import config_of, scores_of
    from mstg_jax.sweep.table import rows

    found, failed, missing = _runs(folders)
    configs = {name: config_of(run, root) for name, (run, _) in found.items()}
    prepare(*configs.values())
    scored = {}
    for number, (name, (run, settings)) in enumerate(found.items(), 1):
        scored[name] = settings, scores_of(run, configs[name])
        log.info(f"{name} ({number} of {len(found)})")
    table = rows(scored)
    words = text(table, failed, missing)
    print(f"\n{words}")  # first, for the disk may refuse what took so long
    with files.writing("--out", out):
        write(out, table, words)
    print(out / "sweep.png")


def _runs(
    folders: Sequence[Path],
) -> tuple[dict[str, tuple[Path, dict[str, str]]], dict[str, str], list[str]]:
    """Finished runs by their names, with the settings of their cells; those that failed, and those
    that are not finished."""
    from mstg_jax.sweep.folder import FILE, finished, last_step, passed_over, read

    found: dict[str, tuple[Path, dict[str, str]]] = {}
    failed, missing = dict[str, str](), list[str]()
    for folder in folders:
        if (folder / FILE).exists():
            base, cells = read(folder)
            done = [name for name in cells if finished(folder / name, base.train.steps)]
            found |= {name: (folder / name, cells[name]) for name in done}
            left = [name for name in cells if name not in done]
            told = passed_over(folder)
            failed |= {name: told[name] for name in left if name in told}
            missing += [name for name in left if name not in told]
        elif (folder / "config.json").exists():
            if last_step(runs.find(str(folder))) is None:
                missing.append(str(folder))
            else:
                name = folder.resolve().name
                found[str(folder) if name in found else name] = folder, {}
        else:
            raise SettingsError(f"{folder} is neither a sweep nor a run")
    if not found:
        raise SettingsError(f"nothing is finished in {', '.join(map(str, folders))}")
    return found, failed, missing


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
