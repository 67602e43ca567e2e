"""A patient from two files, without the ACDC layout."""

from pathlib import Path

import numpy as np

from mstg_jax.data.acdc import Patient
from mstg_jax.data.nifti import DataError, read_image


def read_pair(ed: Path, es: Path) -> Patient:
    """A patient of two 3D files, ED and ES, without labels; named after ED's file.

    Raises DataError listing every problem, also if the two are not on one grid.
    """
    problems: list[str] = []
    headers, volumes, spacings = [], [], []
    for path in (ed, es):
        if not path.is_file():
            raise DataError(f"{path}: no such file; a 3D NIfTI file is needed")
        header, voxels, found = read_image(path, 3)
        headers.append(header)
        width, height, depth = (float(x) for x in header["pixdim"][1:4])
        spacings.append((depth, height, width))
        volumes.append(voxels)
        problems += found
    if volumes[0].shape != volumes[1].shape or not np.allclose(*spacings, rtol=1e-3):
        problems.append(
            f"{es.name} has shape {volumes[1].shape} of {spacings[1]} mm but {ed.name} has "
            f"{volumes[0].shape} of {spacings[0]} mm (d, h, w); both must be on one grid"
        )
    if problems:
        raise DataError("\n".join(problems))
    return Patient(
        id=ed.name.removesuffix(".gz").removesuffix(".nii"),
        folder=ed.parent,
        group=None,
        ed=0,
        es=1,
        frames=np.stack(volumes),
        labels={},
        spacing=spacings[0],
        header=headers[0],
        affine=headers[0].get_best_affine(),
    )
