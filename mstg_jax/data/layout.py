"""Write a patient as ACDC lays one out: Info.cfg, the cycle, ED and ES, and their labels."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Int16, UInt8

from mstg_jax.data.labels import UNKNOWN


def write_patient(
    folder: Path,
    images: Int16[np.ndarray, "t d h w"],
    labels: UInt8[np.ndarray, "t d h w"],
    spacing: tuple[float, float, float],
    ends: tuple[int, int],
    **info: str,
) -> None:
    """A new folder, named after the patient; labels of all frames are in `_4d_gt.nii.gz` as well,
    unless a frame has none, which is 255.

    spacing: (d, h, w) in mm; ends: the frames of ED and ES, from 0; info: more lines of Info.cfg,
    such as Group.
    """
    ed, es = ends
    folder.mkdir(parents=True)
    for part, t in ("4d", ...), (f"frame{ed + 1:02d}", ed), (f"frame{es + 1:02d}", es):
        _save(folder / f"{folder.name}_{part}.nii.gz", images[t], spacing)
        if not (labels[t] == UNKNOWN).any():
            _save(folder / f"{folder.name}_{part}_gt.nii.gz", labels[t], spacing)
    lines = {"ED": ed + 1, "ES": es + 1, "NbFrame": len(images)} | info
    text = "".join(f"{name}: {lines[name]}\n" for name in sorted(lines))
    (folder / "Info.cfg").write_text(text, encoding="utf-8")


def _save(path: Path, volume: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """Voxel sizes in the header, and a unit-like affine that contradicts them as in ACDC."""
    image = nib.Nifti1Image(volume.T, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_zooms((*spacing[::-1], 1.0)[: volume.ndim])
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
        file.write(image.to_bytes())
