"""A patient from two files, without the ACDC layout."""

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
    """A patient of two 3D files, ED and ES, without labels; named after ED's file.

    ES is brought to ED's orientation. duration: ms from ED to ES; a 3D header cannot say it, and
    what its fourth pixdim holds is the duration of a frame in the sequence that it was cut from.
    Raises DataError listing every problem, also if the two are not on one grid.
    """
    ed, es = expanded(ed), expanded(es)
    for path in (ed, es):
        if not path.is_file():
            raise DataError(f"{path}: no such file; a 3D NIfTI file is needed")
    first, second = (read_image(path, 3) for path in (ed, es))
    if problems := first.problems + second.problems:
        raise DataError("\n".join(problems))
    grid = Grid.of(first)
    moved, notes = aligned(grid, second)
    header = first.header
    header["pixdim"][4] = duration or 0.0
    header["xyzt_units"] = int(header["xyzt_units"]) % 8 + (MSEC if duration else 0)
    if not duration:
        notes += ("the time from ED to ES is not known; --duration gives it in ms",)
    width, height, depth = (float(x) for x in grid.sizes)
    return Patient(
        id=END.sub("", ed.name),
        folder=ed.parent,
        group=None,
        ed=0,
        es=1,
        frames=np.stack([first.voxels, moved]),
        labels={},
        spacing=(depth, height, width),
        header=header,
        affine=np.asarray(header.get_best_affine()),
        notes=first.notes + second.notes + grid.notes + notes + spikes(first.voxels),
    )
