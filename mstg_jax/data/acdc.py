"""Find and read patients of the Automated Cardiac Diagnosis Challenge (ACDC).

Bernard et al., IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502. A patient's folder holds
Info.cfg, `patientXXX_4d.nii.gz` (the whole cycle, the image truth), `patientXXX_frameNN.nii.gz` and
`patientXXX_frameNN_gt.nii.gz` for ED and ES, and perhaps `patientXXX_4d_gt.nii.gz` with the labels
of every frame. Any of them may be uncompressed, NIfTI-2, or a pair of .hdr and .img.
"""

import sys
from pathlib import Path
from typing import Literal

from mstg_jax.data.folder import expanded
from mstg_jax.data.nifti import DataError
from mstg_jax.data.patient import Patient
from mstg_jax.data.reader import Reader

Part = Literal["training", "testing"]

LAYOUT = "ROOT/training/patientXXX and ROOT/testing/patientXXX, or ROOT/patientXXX"


def find_patients(root: Path | str) -> dict[Part, list[Path]]:
    """Patient folders below root, sorted; those of a flat folder count as training.

    Raises DataError when there is none.
    """
    root = expanded(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; the layout needed is {LAYOUT}")
    found: dict[Part, list[Path]] = {
        "training": _patient_folders(root / "training"),
        "testing": _patient_folders(root / "testing"),
    }
    if not any(found.values()):
        found["training"] = _patient_folders(root)
    if not any(found.values()):
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
        raise DataError(f"{root}: zero patients; it holds {inside}; the layout needed is {LAYOUT}")
    return found


def _patient_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("patient*") if p.is_dir())


def read_patient(folder: Path) -> Patient:
    """Read and check one patient's folder; raises DataError that lists every problem found."""
    return Reader(folder).patient()


if __name__ == "__main__":
    from mstg_jax.command import leave
    from mstg_jax.data.verify import main  # it imports this module

    leave(main(sys.argv[1:]))
