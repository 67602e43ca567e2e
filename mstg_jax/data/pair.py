"""A patient from two files, without the ACDC layout."""

from pathlib import Path

import numpy as np

from mstg_jax.data.grid import Grid, aligned
from mstg_jax.data.intensity import spikes
from mstg_jax.data.nifti import DataError, read_image
from mstg_jax.data.patient import Patient


def read_pair(ed: Path, es: Path) -> Patient:
    """A patient of two 3D files, ED and ES, without labels; named after ED's file.

    ES is brought to ED's orientation. Raises DataError listing every problem, also if the two are
    not on one grid.
    """
    for path in (ed, es):
        if not path.is_file():
            raise DataError(f"{path}: no such file; a 3D NIfTI file is needed")
    first, second = (read_image(path, 3) for path in (ed, es))
    if problems := first.problems + second.problems:
        raise DataError("\n".join(problems))
    grid = Grid.of(first)
    moved, notes = aligned(grid, second)
    width, height, depth = (float(x) for x in grid.sizes)
    return Patient(
        id=ed.name.removesuffix(".gz").removesuffix(".nii"),
        folder=ed.parent,
        group=None,
        ed=0,
        es=1,
        frames=np.stack([first.voxels, moved]),
        labels={},
        spacing=(depth, height, width),
        header=first.header,
        affine=np.asarray(first.header.get_best_affine()),
        notes=grid.notes + notes + spikes(first.voxels),
    )
