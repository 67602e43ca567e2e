"""A patient from files of single frames, without the ACDC layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mstg_jax.data.folder import END, expanded
from mstg_jax.data.grid import Grid, aligned
from mstg_jax.data.intensity import spikes
from mstg_jax.data.nifti import DataError, read_image
from mstg_jax.data.patient import Patient

MSEC = 16
"""NIfTI's code, in xyzt_units."""


def read_pair(ed: Path, es: Path, duration: float | None = None) -> Patient:
    """`read_keys` of ED and ES, duration ms apart."""
    return read_keys((ed, es), duration)


def read_keys(paths: Sequence[Path], duration: float | None = None) -> Patient:
    """A patient of 3D files in the order of time, without labels; named after the first file.

    The others are brought to its orientation. duration: ms from the first to the last; a 3D header
    cannot say it, and what its fourth pixdim holds is the duration of a frame in the sequence that
    it was cut from. Raises DataError listing every problem, also if they are not on one grid.
    """
    paths = [expanded(path) for path in paths]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file; a 3D NIfTI file is needed")
    first, *others = (read_image(path, 3) for path in paths)
    if problems := [p for volume in (first, *others) for p in volume.problems]:
        raise DataError("\n".join(problems))
    grid, frames = Grid.of(first), [first.voxels]
    notes = [note for volume in (first, *others) for note in volume.notes] + list(grid.notes)
    for other in others:
        moved, found = aligned(grid, other)
        frames.append(moved)
        notes += found
    header = first.header
    header["pixdim"][4] = duration or 0.0
    header["xyzt_units"] = int(header["xyzt_units"]) % 8 + (MSEC if duration else 0)
    if not duration:
        notes.append("the time from ED to ES is not known; --duration gives it in ms")
    width, height, depth = (float(x) for x in grid.sizes)
    return Patient(
        id=END.sub("", paths[0].name),
        folder=paths[0].parent,
        group=None,
        ed=0,
        es=len(frames) - 1,
        frames=np.stack(frames),
        labels={},
        spacing=(depth, height, width),
        header=header,
        affine=np.asarray(header.get_best_affine()),
        notes=(*notes, *spikes(first.voxels)),
    )
