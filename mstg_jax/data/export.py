"""Write generated sequences on the patient's native grid, with the patient's own header."""

from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from mstg_jax.data.patient import Patient

VECTOR_INTENT = 1007


def write_sequence(
    path: Path,
    frames: Float32[np.ndarray, "t d h w"] | UInt8[np.ndarray, "t d h w"],
    patient: Patient,
    stride: float = 1.0,
) -> None:
    """Intensities (float32) or labels (uint8) as 4D NIfTI (x, y, z, t).

    Voxel sizes, affine, form codes and units stay the patient's; the time step is `stride` of its
    own. Where it has none, the step is 1 without a unit. Raises ValueError if the frames are not on
    the native grid.
    """
    _write(path, frames.T, patient, stride, frames.shape[1:])


def write_flow(
    path: Path,
    flow: Float32[np.ndarray, "t d h w 3"],
    patient: Patient,
    stride: float = 1.0,
) -> None:
    """Displacements as 5D NIfTI (x, y, z, t, 3) with the vector intent.

    Components are (x, y, z) in native voxels: frame(p) = ED(p + flow(p)).
    """
    components = np.transpose(flow[..., ::-1], (3, 2, 1, 0, 4))
    _write(path, components, patient, stride, flow.shape[1:4])


def _write(
    path: Path,
    voxels: Shaped[np.ndarray, "x y z *t"],
    patient: Patient,
    stride: float,
    grid: tuple[int, ...],
) -> None:
    if grid != patient.frames.shape[1:]:
        raise ValueError(
            f"{path}: frames of shape {grid} cannot carry the header of {patient.id}, "
            f"whose grid is {patient.frames.shape[1:]} (d, h, w)"
        )
    header = patient.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1.0, 0.0)  # a slope left from scaled integers would be applied again
    if voxels.ndim == 5:
        header.set_intent(VECTOR_INTENT)
    # Building the image resets the time step when the source had fewer axes, so it comes after.
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(voxels, patient.affine, header)
    zooms, step = list(image.header.get_zooms()), patient.frame_time
    zooms[3] = 1.0 if step is None else stride * step
    image.header.set_zooms(zooms)
    if step is None:
        image.header["xyzt_units"] = int(image.header["xyzt_units"]) % 8  # that of length alone
    nib.save(image, path)
