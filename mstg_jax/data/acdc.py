"""Find, verify, read and write patients of the Automated Cardiac Diagnosis Challenge (ACDC).

Bernard et al., IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502. A patient's folder holds
Info.cfg, `patientXXX_4d.nii.gz` (the whole cycle, the image truth), `patientXXX_frameNN.nii.gz` and
`patientXXX_frameNN_gt.nii.gz` for ED and ES, and perhaps `patientXXX_4d_gt.nii.gz` with the labels
of every frame. Any of the files may be uncompressed.
"""

import argparse
import hashlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from jaxtyping import Float32, UInt8

from mstg_jax.data.nifti import DataError, read_image, read_labels

Part = Literal["training", "testing"]

LAYOUT = "ROOT/training/patientXXX and ROOT/testing/patientXXX, or ROOT/patientXXX"


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
    def frame_time(self) -> float:
        """Time from frame to frame in the header's unit; 1 where the header gives none."""
        step = float(self.header["pixdim"][4])
        return step if math.isfinite(step) and step > 0 else 1.0

    @property
    def digest(self) -> str:
        """Hash of the voxels: equal for two folders that hold the same images."""
        return hashlib.sha256(repr(self.frames.shape).encode() + self.frames.tobytes()).hexdigest()


def find_patients(root: Path | str) -> dict[Part, list[Path]]:
    """Patient folders below root, sorted; those of a flat folder count as training.

    Raises DataError when there is none.
    """
    root = Path(root).expanduser()
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


def patient_files(folder: Path) -> list[Path]:
    """Every file that `read_patient` may read, sorted."""
    names = ("Info.cfg", f"{folder.name}_*.nii", f"{folder.name}_*.nii.gz")
    return sorted(path for name in names for path in folder.glob(name))


def read_patient(folder: Path) -> Patient:
    """Read and check one patient's folder; raises DataError that lists every problem found."""
    return _Reader(folder).patient()


class _Reader:
    """Reads on after a problem, so that all of a patient's problems are reported at once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.name
        self.problems: list[str] = []
        self.notes: list[str] = []
        whole = self.path("4d")
        self.whole = whole.name if whole else f"{folder.name}_4d.nii.gz"

    def patient(self) -> Patient:
        info = self.info()
        header, frames = self.image("4d", 4) or (None, None)
        ed, es = (self.frame_number(info, key, frames) for key in ("ED", "ES"))
        if ed is not None and ed == es:
            self.problems.append(
                f"Info.cfg says ED: {ed} and ES: {es}; a sequence needs two different frames"
            )
        numbers = [n for n in (ed, es) if n is not None]
        for number in numbers:
            self.check_frame_file(number, frames)
        labels = self.labels(numbers, frames)
        if self.problems or header is None or frames is None or ed is None or es is None:
            raise DataError("\n".join(f"{self.name}: {text}" for text in self.problems))
        if info.get("NbFrame", str(len(frames))) != str(len(frames)):
            self.notes.append(f"Info.cfg says NbFrame: {info['NbFrame']}, the 4D has {len(frames)}")
        w, h, d = (float(x) for x in header["pixdim"][1:4])
        return Patient(
            id=self.name,
            folder=self.folder,
            group=info.get("Group"),
            ed=ed - 1,
            es=es - 1,
            frames=frames,
            labels=labels,
            spacing=(d, h, w),
            header=header,
            affine=np.asarray(header.get_best_affine()),
            notes=tuple(self.notes),
        )

    def info(self) -> dict[str, str]:
        try:
            lines = (self.folder / "Info.cfg").read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"Info.cfg cannot be read ({error}); it must give ED and ES")
            return {}
        pairs = (line.partition(":") for line in lines)
        info = {key.strip(): value.strip() for key, colon, value in pairs if colon}
        for key in ("ED", "ES"):
            if key not in info:
                self.problems.append(
                    f"Info.cfg does not give {key}; it needs a line `{key}: <frame number>`"
                )
        return info

    def frame_number(
        self, info: dict[str, str], key: str, frames: Float32[np.ndarray, "t d h w"] | None
    ) -> int | None:
        """The 1-based number of ED or ES, None if it cannot be used."""
        text = info.get(key)
        if text is None:
            return None
        number = int(text) if text.isascii() and text.isdigit() else 0
        if frames is None:
            needed = f"{key} must be a whole number, 1 or more"
        else:
            needed = f"{self.whole} has {len(frames)} frames; {key} must lie in 1..{len(frames)}"
        if number < 1 or (frames is not None and number > len(frames)):
            self.problems.append(f"Info.cfg says {key}: {text} but {needed}")
            return None
        return number

    def path(self, kind: str) -> Path | None:
        paths = (self.folder / f"{self.name}_{kind}{end}" for end in (".nii.gz", ".nii"))
        return next((path for path in paths if path.is_file()), None)

    def image(self, kind: str, ndim: int) -> tuple[nib.Nifti1Header, np.ndarray] | None:
        """Header and float32 voxels of the 4D (t d h w) or of one frame (d h w)."""
        path = self.path(kind)
        if path is None:
            self.problems.append(f"{self.name}_{kind}.nii.gz (or .nii) is missing")
            return None
        try:
            header, voxels, problems = read_image(path, ndim)
        except DataError as error:
            self.problems.append(str(error))
            return None
        self.problems += problems
        return header, voxels

    def check_frame_file(self, number: int, frames: Float32[np.ndarray, "t d h w"] | None) -> None:
        """The copy of one frame is not used, but where it exists it must be sound."""
        path = self.path(f"frame{number:02d}")
        loaded = path and self.image(f"frame{number:02d}", 3)
        if not path or not loaded or frames is None or not self.fits(path, loaded[1], frames[0]):
            return
        if not np.array_equal(loaded[1], frames[number - 1]):
            self.notes.append(f"{path.name} differs from frame {number} of the 4D, which is used")

    def fits(self, path: Path, voxels: np.ndarray, image: np.ndarray) -> bool:
        if voxels.shape != image.shape:
            self.problems.append(
                f"{path.name} has shape {voxels.shape[::-1]} but the image in {self.whole} has "
                f"{image.shape[::-1]}; they must be equal"
            )
        return voxels.shape == image.shape

    def labels(
        self, numbers: list[int], frames: Float32[np.ndarray, "t d h w"] | None
    ) -> dict[int, UInt8[np.ndarray, "d h w"]]:
        """0-based frame -> labels. The files of single frames win over the 4D labels."""
        labels: dict[int, np.ndarray] = {}
        whole = self.path("4d_gt")
        if whole:
            every = self.label_file(whole, frames)
            labels = {} if every is None else dict(enumerate(every))
        paths = {number: self.path(f"frame{number:02d}_gt") for number in numbers}
        for number, path in paths.items():
            if path:
                one = self.label_file(path, None if frames is None else frames[0])
                labels |= {} if one is None else {number - 1: one}
            elif not whole and any(paths.values()):
                self.problems.append(
                    f"{self.name}_frame{number:02d}_gt.nii.gz (or .nii) is missing; "
                    "labels are needed for both ED and ES, or for neither"
                )
        if not whole and not any(paths.values()):
            self.notes.append("no labels")
        return labels

    def label_file(self, path: Path, image: np.ndarray | None) -> np.ndarray | None:
        """Labels of the image's shape, None if they cannot be used."""
        try:
            labels = read_labels(path)
        except DataError as error:
            self.problems.append(str(error))
            return None
        return labels if image is not None and self.fits(path, labels, image) else None


def verify(root: Path) -> int:
    """Print one line per patient and every problem; returns the number of broken patients."""
    bad = 0
    seen: dict[str, str] = {}
    patients = [(part, folder) for part, paths in find_patients(root).items() for folder in paths]
    for part, folder in patients:
        try:
            patient = read_patient(folder)
        except DataError as error:
            bad += 1
            print(f"{folder.name} {part} BROKEN", *str(error).splitlines(), sep="\n  ")
            continue
        twin = seen.setdefault(patient.digest, patient.id)
        same = (f"same images as {twin}",) if twin != patient.id else ()
        print(_summary(part, patient), *(f" ({note})" for note in patient.notes + same))
    print(f"{len(patients) - bad} of {len(patients)} patients are fine")
    return bad


def _summary(part: str, patient: Patient) -> str:
    shape = "x".join(str(n) for n in patient.frames.shape)
    spacing = "x".join(f"{x:.4g}" for x in patient.spacing)
    dtype = str(patient.header.get_data_dtype())
    return (
        f"{patient.id} {part:8} {patient.group or '-':5} {shape:>14} tdhw {spacing:>16} mm "
        f"{dtype:8} ED {patient.ed + 1:2} ES {patient.es + 1:2}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mstg_jax.data.acdc")
    command = parser.add_subparsers(required=True).add_parser("verify", help="check every patient")
    command.add_argument("root", type=Path, help=f"folder with {LAYOUT}")
    try:
        bad = verify(parser.parse_args().root)
    except DataError as error:
        sys.exit(str(error))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
