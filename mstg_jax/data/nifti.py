"""Read NIfTI files without trusting them."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Shaped
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from mstg_jax.config import UserError
from mstg_jax.data.container import read_stored
from mstg_jax.data.labels import LABELS

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    zlib.error,
    HeaderDataError,
)
"""What damaged bytes raise in zlib and nibabel."""
NEEDED = {3: "(x, y, z)", 4: "(x, y, z, t) with 2 or more frames"}


class DataError(UserError):
    """Files on disk that cannot be used; one problem per line, each naming the file."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A file's header as it stands and its voxels, ([t] d h w).

    problems make it unusable; notes are on what is odd.
    """

    name: str
    header: nib.Nifti1Header
    voxels: Shaped[np.ndarray, "*t d h w"]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_image(path: Path, ndim: int) -> Volume:
    """A sequence (t d h w) or a volume (d h w) as float32, with what is wrong with it.

    Raises DataError if the file cannot be read or has another number of axes.
    """
    header, voxels, notes = _read(path, ndim)
    with np.errstate(all="ignore"):
        voxels = np.array(voxels, dtype=np.float32, order="C")
    problems = _problems(path.name, header, voxels.reshape(-1, *voxels.shape[-3:]))
    return Volume(path.name, header, voxels, notes, tuple(problems))


def _problems(
    name: str, header: nib.Nifti1Header, frames: Float32[np.ndarray, "t d h w"]
) -> list[str]:
    problems = []
    spacing = [float(x) for x in header["pixdim"][1:4]]
    if not all(math.isfinite(x) and x > 0 for x in spacing):
        problems.append(f"{name} has voxel sizes {spacing} mm; each must be finite and positive")
    bad = [int((~np.isfinite(frame)).sum()) for frame in frames]
    if any(bad):
        where = [i for i, n in enumerate(bad, 1) if n]
        problems.append(
            f"{name} has {sum(bad)} NaN or infinite voxels in frames {where}; all must be finite"
        )
    flat = [i for i, frame in enumerate(frames, 1) if not bad[i - 1] and np.ptp(frame) == 0]
    if flat:
        problems.append(f"{name} is constant in frames {flat}; each frame must show an image")
    return problems


def read_labels(path: Path, ndim: int) -> Volume:
    """Labels of any numeric type as uint8, of every frame (t d h w) or of one (d h w).

    Raises DataError if the file cannot be read, has another number of axes, or values besides 0..3.
    """
    header, voxels, notes = _read(path, ndim)
    with np.errstate(invalid="ignore"):
        labels = np.array(voxels, dtype=np.uint8, order="C")
    if not np.array_equal(labels, voxels) or labels.max() > 3:
        values = np.unique(voxels)[:8].tolist()
        raise DataError(f"{path.name} has the values {values}; labels are {LABELS}")
    return Volume(path.name, header, labels, notes)


def _read(
    path: Path, ndim: int
) -> tuple[nib.Nifti1Header, Shaped[np.ndarray, "*t d h w"], tuple[str, ...]]:
    """As `read_stored_voxels`, scaled."""
    header, stored, notes = read_stored_voxels(path, ndim)
    with np.errstate(all="ignore"):  # what is not finite is reported, not warned of
        return header, np.asarray(apply_read_scaling(stored, *header.get_slope_inter())), notes


def read_stored_voxels(
    path: Path, ndim: int
) -> tuple[nib.Nifti1Header, Shaped[np.ndarray, "*t d h w"], tuple[str, ...]]:
    """The header as it stands, the voxels with the axes reversed, ([t] d h w), in the file's own
    type and without its slope and intercept, and notes.

    Axes of one voxel beyond the third are left out. Raises DataError if this is no whole NIfTI file
    of integers or floats with a finite affine and `ndim` axes.
    """
    try:
        header, offset, data, notes = read_stored(path)
        dtype = _dtype(header)
        shape = tuple(map(int, header.get_data_shape()))
        end = offset + math.prod(shape) * dtype.itemsize
        if offset < 0 or not shape or min(shape) < 1 or len(data) < end:
            raise ValueError(f"it holds {len(data)} bytes, shape {shape} of {dtype} takes {end}")
        stored = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape, order="F")
        with np.errstate(all="ignore"):
            header.get_slope_inter()
            affine = np.asarray(header.get_best_affine())
        if not np.isfinite(affine).all():
            raise ValueError(f"its affine is {affine.tolist()}")
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} cannot be read ({error}); it must be a whole NIfTI file of numbers"
        ) from error
    long = [axis for axis, length in enumerate(shape) if axis > 2 and length > 1]
    vectors = bool(long) and long[0] > 3 and int(header["intent_code"]) != 0
    if len(shape) < 3 or len(long) != ndim - 3 or vectors:
        raise DataError(f"{path.name} has shape {shape}; it must be {NEEDED[ndim]}")
    if long and long[0] > 3:
        header["pixdim"][4] = header["pixdim"][long[0] + 1]
        notes += (f"{path.name} has shape {shape}: its axis {long[0] + 1} is taken for time",)
    if len(data) > end:
        notes += (f"{path.name}: {len(data) - end} bytes follow its voxels",)
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        notes += (f"{path.name}: its header says {header['bitpix']} bits a voxel, but {dtype}",)
    return header, stored.reshape([shape[i] for i in (0, 1, 2, *long)], order="F").T, notes


def _dtype(header: nib.Nifti1Header) -> np.dtype:
    """The type of the stored voxels; raises ValueError if they are no numbers."""
    code = int(header["datatype"])
    try:
        dtype = header.get_data_dtype()
    except (KeyError, HeaderDataError):
        raise ValueError(f"its type of voxels, code {code}, is unknown") from None
    if dtype.kind == "c":
        raise ValueError(f"its voxels are {dtype}; save their magnitude as float32")
    if dtype.fields:
        raise ValueError("its voxels are colours; save one grey value per voxel")
    if dtype.kind not in "iuf" or not dtype.itemsize:
        raise ValueError(f"its type of voxels, code {code}, is {dtype}")
    return dtype
