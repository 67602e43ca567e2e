"""One patient in memory."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, UInt8


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient on the native grid. Frames count from 0; w, h, d are the file's x, y, z.

    labels: frame -> labels (0 background, 1 right ventricle, 2 myocardium, 3 left ventricle); at
        least those of ED and ES, or empty when the folder has none.
    spacing: (d, h, w) in mm, from the header's voxel sizes: ACDC's affines are unit matrices.
    notes: what is unusual but usable.
    """

    id: str
    folder: Path
    group: str | None
    ed: int
    es: int
    frames: Float32[np.ndarray, "t d h w"]
    labels: dict[int, UInt8[np.ndarray, "d h w"]]
    spacing: tuple[float, float, float]
    header: nib.Nifti1Header
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def sequence(self) -> list[int]:
        """Frames from ED to ES in time order, round the end of the cycle if ES precedes ED."""
        count = len(self.frames)
        return [(self.ed + i) % count for i in range((self.es - self.ed) % count + 1)]

    @property
    def frame_time(self) -> float | None:
        """Time from frame to frame in the header's unit; None where the header gives none."""
        step = float(self.header["pixdim"][4])
        return step if math.isfinite(step) and step > 0 else None

    @property
    def digest(self) -> str:
        """Hash of the voxels: equal for two folders that hold the same images."""
        return hashlib.sha256(repr(self.frames.shape).encode() + self.frames.tobytes()).hexdigest()
