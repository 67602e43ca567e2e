"""Read and check the files of one patient's folder."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from mstg_jax.data.grid import Grid, aligned
from mstg_jax.data.labels import MNMS, swapped
from mstg_jax.data.nifti import DataError, Volume, read_image, read_labels
from mstg_jax.data.patient import Patient


class Reader:
    """Reads on after a problem, so that all of a patient's problems are reported at once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.name
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.sequence: Volume | None = None
        whole = self.path("4d")
        self.whole = whole.name if whole else f"{folder.name}_4d.nii.gz"

    def patient(self) -> Patient:
        info = self.info()
        self.sequence = self.image("4d", 4)
        frames = self.sequence and self.sequence.voxels
        ed, es = (self.frame_number(info, key, frames) for key in ("ED", "ES"))
        if ed is not None and ed == es:
            self.problems.append(
                f"Info.cfg says ED: {ed} and ES: {es}; a sequence needs two different frames"
            )
        numbers = [n for n in (ed, es) if n is not None]
        for number in numbers:
            self.check_frame_file(number)
        labels = self.labels(numbers)
        if self.problems or self.sequence is None or frames is None or ed is None or es is None:
            raise DataError("\n".join(f"{self.name}: {text}" for text in self.problems))
        if info.get("NbFrame", str(len(frames))) != str(len(frames)):
            self.notes.append(f"Info.cfg says NbFrame: {info['NbFrame']}, the 4D has {len(frames)}")
        header = self.sequence.header
        w, h, d = (float(x) for x in Grid.of(self.sequence).sizes)
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

    def missing(self, kind: str) -> str:
        return f"{self.name}_{kind}.nii.gz (or .nii) is missing"

    def image(self, kind: str, ndim: int) -> Volume | None:
        """The 4D (t d h w) or one frame (d h w)."""
        path = self.path(kind)
        if path is None:
            self.problems.append(self.missing(kind))
            return None
        try:
            volume = read_image(path, ndim)
        except DataError as error:
            self.problems.append(str(error))
            return None
        self.problems += volume.problems
        return volume

    def check_frame_file(self, number: int) -> None:
        """The copy of one frame is not used, but where it exists it must be sound."""
        kind = f"frame{number:02d}"
        volume = self.image(kind, 3) if self.path(kind) else None
        voxels = None if volume is None else self.on_grid(volume)
        if volume is None or voxels is None or self.sequence is None:
            return
        if not np.array_equal(voxels, self.sequence.voxels[number - 1]):
            self.notes.append(f"{volume.name} differs from frame {number} of the 4D, which is used")

    def on_grid(self, volume: Volume) -> np.ndarray | None:
        """The voxels in the 4D's orientation, None if they do not lie on its grid."""
        if self.sequence is None:
            return None
        frames = self.sequence.voxels
        if volume.voxels.ndim == 4 and len(volume.voxels) != len(frames):
            self.problems.append(
                f"{volume.name} has {len(volume.voxels)} frames but {self.sequence.name} has "
                f"{len(frames)}; they must be equal"
            )
            return None
        try:
            voxels, notes = aligned(Grid.of(self.sequence), volume)
        except DataError as error:
            self.problems.append(str(error))
            return None
        self.notes += notes
        return voxels

    def labels(self, numbers: list[int]) -> dict[int, UInt8[np.ndarray, "d h w"]]:
        """0-based frame -> labels. The files of single frames win over the 4D labels.

        Where others have labels, a frame of nothing but background counts as unlabelled, as in the
        M&Ms challenge: a heart has some volume in every frame.
        """
        whole = self.path("4d_gt")
        files = {number: self.path(f"frame{number:02d}_gt") for number in numbers}
        if not whole and not any(files.values()):
            self.notes.append("no labels")
            return {}
        before = len(self.problems)
        every = self.label_file(whole, 4) if whole else None
        found = {} if every is None else dict(enumerate(every))
        for number, path in files.items():
            one = self.label_file(path, 3) if path else None
            found |= {} if one is None else {number - 1: one}
        if len(self.problems) > before:
            return {}
        labels = {frame: one for frame, one in found.items() if one.any()}
        if whole and 0 < len(labels) < len(found):
            have = ", ".join(str(frame + 1) for frame in sorted(labels))
            self.notes.append(f"only frames {have} are labelled; the others count as unlabelled")
        missing = [number for number in numbers if number - 1 not in labels]
        if missing == numbers:
            self.notes.append("no labels of ED and ES")
            return {}
        for number in missing:
            path = files[number] or whole
            what = f"{path.name} has no label of frame {number}" if path else None
            what = what or self.missing(f"frame{number:02d}_gt")
            self.problems.append(f"{what}; labels are needed for both ED and ES, or for neither")
        if any(swapped(labels[number - 1]) for number in numbers if number not in missing):
            self.notes.append(f"label 1 lies inside label 2: the codes seem to be {MNMS}")
        return labels

    def label_file(self, path: Path, ndim: int) -> np.ndarray | None:
        """Labels on the image's grid, None if they cannot be used."""
        try:
            volume = read_labels(path, ndim)
        except DataError as error:
            self.problems.append(str(error))
            return None
        return self.on_grid(volume)
