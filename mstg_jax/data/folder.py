"""The files of a patient's folder, by what their names say that they hold."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mstg_jax.data.nifti import DataError

ENDS = (".nii.gz", ".nii", ".hdr", ".hdr.gz", ".img", ".img.gz")
"""In upper or lower case; of two files of one kind the first of these is read."""
END = re.compile(f"({'|'.join(map(re.escape, ENDS))})$", re.IGNORECASE)
NAME = re.compile(f"(4d|frame0*([0-9]+))(_gt)?{END.pattern}", re.IGNORECASE)
INFO = "Info.cfg"


def expanded(path: Path | str) -> Path:
    """With the home folder for `~`; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


class Kind(NamedTuple):
    """What a file holds: one frame by the number in its name or, by None, the whole cycle."""

    frame: int | None = None
    labels: bool = False

    def name(self, patient: str) -> str:
        part = "4d" if self.frame is None else f"frame{self.frame:02d}"
        return f"{patient}_{part}{'_gt' * self.labels}.nii.gz"


def patient_files(folder: Path) -> list[Path]:
    """Every file that `read_patient` may read, sorted."""
    info = (path for path in _listed(folder) if path.name == INFO)
    return sorted([*info, *(path for _, _, path in _images(folder))])


def files_by_kind(folder: Path) -> dict[Kind, list[Path]]:
    """Images and labels, of each kind the file first that is read; a pair by its header."""
    found: dict[Kind, list[Path]] = {}
    for rank, kind, path in sorted(_images(folder), key=lambda found: (found[0], found[2])):
        if not ENDS[rank].startswith(".img"):
            found.setdefault(kind, []).append(path)
    return found


def _images(folder: Path) -> Iterator[tuple[int, Kind, Path]]:
    """Of each file the place of its end in ENDS, its kind and its path."""
    start = f"{folder.name}_"
    for path in _listed(folder):
        match = NAME.fullmatch(path.name.removeprefix(start))
        if match and path.name.startswith(start):
            number = int(match[2]) if match[2] else None
            yield ENDS.index(match[4].lower()), Kind(number, match[3] is not None), path


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder.name}: the folder cannot be read ({error})") from error
