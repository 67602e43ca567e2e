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
    frame_time: float | None = None,
) -> None:
    """Intensities (float32) or labels (uint8) as 4D NIfTI (x, y, z, t).

    Voxel sizes, affine, form codes and units stay the patient's; the time step becomes
    `frame_time`, in the header's unit, else stays. Raises ValueError if the frames are not on the
    native grid.
    """
    _write(path, frames.T, patient, frame_time, frames.shape[1:])


def write_flow(
    path: Path,
    flow: Float32[np.ndarray, "t d h w 3"],
    patient: Patient,
    frame_time: float | None = None,
) -> None:
    """Displacements as 5D NIfTI (x, y, z, t, 3) with the vector intent.

    Components are (x, y, z) in native voxels: frame(p) = ED(p + flow(p)).
    """
    components = np.transpose(flow[..., ::-1], (3, 2, 1, 0, 4))
    _write(path, components, patient, frame_time, flow.shape[1:4])


def _write(
    path: Path,
    voxels: Shaped[np.ndarray, "x y z *t"],
    patient: Patient,
    frame_time: float | None,
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
    image = nib.Nifti1Image(voxels, patient.affine, header)
    zooms = list(image.header.get_zooms())
    zooms[3] = patient.frame_time if frame_time is None else frame_time
    image.header.set_zooms(zooms)
    nib.save(image, path)
