"""Read NIfTI-1 files without trusting them."""

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Shaped
from nibabel.spatialimages import HeaderDataError

from mstg_jax.config import UserError

HEADER_BYTES = 348
LABELS = "0 background, 1 right ventricle, 2 myocardium, 3 left ventricle"
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    zlib.error,
    HeaderDataError,
)
"""What damaged bytes raise in gzip, zlib and nibabel."""


class DataError(UserError):
    """Files on disk that cannot be used; one problem per line, each naming the file."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A file's header as it stands and its voxels, ([t] d h w); problems make it unusable."""

    name: str
    header: nib.Nifti1Header
    voxels: Shaped[np.ndarray, "*t d h w"]
    problems: tuple[str, ...] = ()


def read_image(path: Path, ndim: int) -> Volume:
    """A sequence (t d h w) or a volume (d h w) as float32, with what is wrong with it.

    Raises DataError if the file cannot be read or has another number of axes.
    """
    header, voxels = _read(path)
    if voxels.ndim != ndim or (ndim == 4 and len(voxels) < 2):
        needed = "(x, y, z, t) with 2 or more frames" if ndim == 4 else "(x, y, z)"
        raise DataError(f"{path.name} has shape {voxels.shape[::-1]}; it must be {needed}")
    with np.errstate(all="ignore"):
        voxels = np.ascontiguousarray(voxels, dtype=np.float32)
    problems = _problems(path.name, header, voxels.reshape(-1, *voxels.shape[-3:]))
    return Volume(path.name, header, voxels, tuple(problems))


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
    header, voxels = _read(path)
    if voxels.ndim != ndim:
        needed = "(x, y, z, t)" if ndim == 4 else "(x, y, z)"
        raise DataError(f"{path.name} has shape {voxels.shape[::-1]}; it must be {needed}")
    with np.errstate(invalid="ignore"):
        labels = np.ascontiguousarray(voxels, dtype=np.uint8)
    if not np.array_equal(labels, voxels) or labels.max() > 3:
        values = np.unique(voxels)[:8].tolist()
        raise DataError(f"{path.name} has the values {values}; labels are {LABELS}")
    return Volume(path.name, header, labels)


def _read(path: Path) -> tuple[nib.Nifti1Header, Shaped[np.ndarray, "..."]]:
    """The header as it stands in the file, and the voxels with the axes reversed: ([t] d h w).

    The whole file is decompressed first, because a reader that stops at the last voxel never sees
    the checksum. The header is not passed through nibabel's repairs, which turn a voxel size of 0
    into 1, and its extensions are left out. Raises DataError if this is no whole NIfTI-1 file of
    integers or floats with a finite affine.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if len(data) < HEADER_BYTES:
            raise ValueError(f"it holds {len(data)} bytes, a header alone has {HEADER_BYTES}")
        stream = io.BytesIO(data)
        header = nib.Nifti1Header(data[:HEADER_BYTES], check=False)
        dtype, magic = header.get_data_dtype(), header["magic"].item()
        if magic != b"n+1" or dtype.kind not in "iuf":
            raise ValueError(f"its magic is {magic} and its type {dtype}")
        shape = header.get_data_shape()
        needed = int(header.get_data_offset()) + math.prod(map(int, shape)) * dtype.itemsize
        if not shape or min(shape) < 1 or len(data) < needed:
            raise ValueError(f"it holds {len(data)} bytes, shape {shape} of {dtype} takes {needed}")
        with np.errstate(all="ignore"):  # what is not finite is reported, not warned of
            voxels = np.asarray(header.data_from_fileobj(stream))
            affine = np.asarray(header.get_best_affine())
        if not np.isfinite(affine).all():
            raise ValueError(f"its affine is {affine.tolist()}")
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} cannot be read ({error}); it must be a whole NIfTI-1 file of numbers"
        ) from error
    return header, voxels.T
