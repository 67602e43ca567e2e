"""A cine by itself, a 4D file without the ACDC layout, and a denser one of the same kind."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Shaped

from mstg_jax.data.cycle import CLOSED_BELOW, closing_step
from mstg_jax.data.folder import END, expanded
from mstg_jax.data.grid import Grid
from mstg_jax.data.intensity import spikes
from mstg_jax.data.nifti import DataError, read_image, read_stored_voxels
from mstg_jax.data.patient import Patient

SLOPE_AT = {348: (112, "f4"), 540: (176, "f8")}
"""Where slope and intercept stand in NIfTI-1 and NIfTI-2, and their type."""


@dataclass(frozen=True, eq=False)
class Cine:
    """patient: its first frame as ED, its last as ES; stored: the voxels as the file has them;
    closed: whether the last frame is followed by the first."""

    patient: Patient
    stored: Shaped[np.ndarray, "t d h w"]
    closed: bool


def read_cine(path: Path, *, open_end: bool = False) -> Cine:
    """A 4D file; open_end: leave the gap from the last frame to the first, whatever they show.

    Raises DataError listing every problem.
    """
    path = expanded(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; a 4D NIfTI file is needed")
    volume = read_image(path, 4)
    if volume.problems:
        raise DataError("\n".join(volume.problems))
    header, stored, _ = read_stored_voxels(path, 4)
    grid, frames = Grid.of(volume), volume.voxels
    step, notes = closing_step(frames), volume.notes + grid.notes + spikes(frames[0])
    if step >= CLOSED_BELOW and not open_end:
        notes += (
            f"{path.name}: from the last frame to the first it is {step:.1f} of the usual steps: "
            "the end of the cycle is missing, and that gap is left as it is",
        )
    width, height, depth = (float(x) for x in grid.sizes)
    patient = Patient(
        id=END.sub("", path.name),
        folder=path.parent,
        group=None,
        ed=0,
        es=len(frames) - 1,
        frames=frames,
        labels={},
        spacing=(depth, height, width),
        header=header,
        affine=np.asarray(header.get_best_affine()),
        notes=notes,
    )
    return Cine(patient, stored, step < CLOSED_BELOW and not open_end)


def write_cine(path: Path, cine: Cine, frames: Float32[np.ndarray, "n d h w"], factor: int) -> None:
    """frames with every `factor`-th one a real one, which is written bit for bit as it was; the
    others are rounded to what the file's type can hold. The time step is a factor-th.

    Header, affine, type, slope and intercept are the cine's own.
    """
    header = cine.patient.header
    slope, inter = header.get_slope_inter()
    slope, inter = 1.0 if slope is None else slope, 0.0 if inter is None else inter
    dtype = cine.stored.dtype
    real = (frames - inter) / slope
    if dtype.kind in "iu":
        held = np.iinfo(dtype)
        real = np.clip(np.rint(real), held.min, held.max)
    voxels = real.astype(dtype)
    voxels[::factor] = cine.stored
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    plain = header.copy()
    plain.set_slope_inter(1.0, 0.0)  # else the library would scale what is scaled already
    image = kind(voxels.T, cine.patient.affine, plain)
    zooms, step = list(image.header.get_zooms()), cine.patient.frame_time
    zooms[3] = 1.0 if step is None else step / factor
    image.header.set_zooms(zooms)
    data = bytearray(image.to_bytes())
    place, form = SLOPE_AT[int(image.header["sizeof_hdr"])]
    pair = np.array([slope, inter], np.dtype(form).newbyteorder(image.header.endianness))
    data[place : place + pair.nbytes] = pair.tobytes()
    path.write_bytes(gzip.compress(bytes(data), mtime=0) if path.suffix == ".gz" else data)
