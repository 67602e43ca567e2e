"""Read and check the files of one patient's folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from mstg_jax.data.container import same_bytes
from mstg_jax.data.folder import INFO, Kind, files_by_kind
from mstg_jax.data.grid import Grid, aligned
from mstg_jax.data.intensity import spikes
from mstg_jax.data.labels import MNMS, swapped
from mstg_jax.data.nifti import DataError, Volume, read_image, read_labels
from mstg_jax.data.patient import Patient


class Phase(NamedTuple):
    """ED or ES: the number of its frame in the 4D, from 1, and the number in its files' names.

    They are the same, but where the files count from 0.
    """

    frame: int
    file: int


class Reader:
    """Reads on after a problem, so that all of a patient's problems are reported at once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.name
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.files = files_by_kind(folder)
        self.sequence: Volume | None = None
        self.grid: Grid | None = None

    def patient(self) -> Patient:
        for first, *others in self.files.values():
            differing = [path.name for path in others if not same_bytes(first, path)]
            self.notes += [f"{name} differs from {first.name}, which is used" for name in differing]
        info = self.info()
        self.sequence = self.image(Kind(), 4)
        if self.sequence:
            self.grid = Grid.of(self.sequence)
            self.notes += self.grid.notes
        phases = self.phases(info)
        labels = self.labels(phases)
        if self.problems or self.sequence is None or self.grid is None:
            raise DataError("\n".join(f"{self.name}: {text}" for text in self.problems))
        ed, es = (phase.frame - 1 for phase in phases)
        frames, header = self.sequence.voxels, self.sequence.header
        if info.get("NbFrame", str(len(frames))) != str(len(frames)):
            self.notes.append(f"{INFO} says NbFrame: {info['NbFrame']}, the 4D has {len(frames)}")
        self.notes += spikes(frames[ed])
        w, h, d = (float(x) for x in self.grid.sizes)
        return Patient(
            id=self.name,
            folder=self.folder,
            group=info.get("Group"),
            ed=ed,
            es=es,
            frames=frames,
            labels=labels,
            spacing=(d, h, w),
            header=header,
            affine=np.asarray(header.get_best_affine()),
            notes=tuple(self.notes),
        )

    def info(self) -> dict[str, str]:
        try:
            lines = (self.folder / INFO).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{INFO} cannot be read ({error}); it must give ED and ES")
            return {}
        pairs = [[text.strip() for text in line.split(":", 1)] for line in lines if ":" in line]
        for key in ("ED", "ES"):
            given = [value for name, value in pairs if name == key]
            if len(set(given)) != 1:
                said = f"gives {key} as {' and '.join(given)}" if given else f"does not give {key}"
                self.problems.append(f"{INFO} {said}; it needs a line `{key}: <frame number>`")
                pairs = [pair for pair in pairs if pair[0] != key]
        return dict(pairs)

    def phases(self, info: dict[str, str]) -> list[Phase]:
        """ED and ES, as far as Info.cfg gives them.

        Where it counts from 0, as the table of M&Ms does, the files of the two frames tell by their
        numbers or, if they count from 0 as well, by their voxels.
        """
        keys = [key for key in ("ED", "ES") if key in info]
        said = [_number(info[key]) for key in keys]
        later = [number + 1 for number in said]
        named = {kind.frame for kind in self.files}
        from_zero = len(keys) == 2 and not named >= set(said) and named >= set(later)
        files = later if from_zero else said
        copies = [self.copy(number) for number in files]
        guesses = (files, said, later) if len(keys) == 2 else (files,)
        frames = next((guess for guess in guesses if self.shows(copies, guess)), files)
        if not files == said == frames:
            self.notes.append(
                f"{INFO} says ED: {said[0]} and ES: {said[1]}; by the files of the frames, numbers "
                f"{files[0]} and {files[1]}, ED and ES are frames {frames[0]} and {frames[1]} of "
                "the 4D, counted from 1, which are used"
            )
        if len(frames) == 2 and frames[0] == frames[1] >= 0:
            self.problems.append(
                f"{INFO} says ED: {said[0]} and ES: {said[1]}; a sequence needs different frames"
            )
        usable, sequence = [], self.sequence
        for key, frame, file, copy in zip(keys, frames, files, copies, strict=True):
            last = len(sequence.voxels) if sequence else frame
            if not 1 <= frame <= last:
                needed = f"{key} must be a whole number, 1 or more"
                if sequence:
                    needed = f"{sequence.name} has {last} frames; {key} must lie in 1..{last}"
                self.problems.append(f"{INFO} says {key}: {info[key]} but {needed}")
                continue
            usable.append(Phase(frame, file))
            if copy is not None and not self.shows([copy], [frame]):
                name = self.files[Kind(file)][0].name
                self.notes.append(f"{name} differs from frame {frame} of the 4D, which is used")
        return usable

    def copy(self, number: int) -> Shaped[np.ndarray, "d h w"] | None:
        """The file of one frame; it is not used, but where it exists it must be sound."""
        volume = self.image(Kind(number), 3) if Kind(number) in self.files else None
        return None if volume is None else self.on_grid(volume)

    def shows(self, copies: list[np.ndarray | None], frames: list[int]) -> bool:
        """Whether all the copies hold the voxels of these frames of the 4D, counted from 1."""
        every = () if self.sequence is None else self.sequence.voxels
        return all(
            copy is not None and 1 <= frame <= len(every) and np.array_equal(copy, every[frame - 1])
            for copy, frame in zip(copies, frames, strict=True)
        )

    def missing(self, kind: Kind) -> str:
        return f"{kind.name(self.name)} (or .nii) is missing"

    def image(self, kind: Kind, ndim: int) -> Volume | None:
        """The 4D (t d h w) or one frame (d h w)."""
        if kind not in self.files:
            self.problems.append(self.missing(kind))
            return None
        try:
            volume = read_image(self.files[kind][0], ndim)
        except DataError as error:
            self.problems.append(str(error))
            return None
        self.problems += volume.problems
        self.notes += volume.notes
        return volume

    def on_grid(self, volume: Volume) -> np.ndarray | None:
        """The voxels in the 4D's orientation, None if they do not lie on its grid."""
        if self.sequence is None or self.grid is None:
            return None
        count, frames = len(volume.voxels), len(self.sequence.voxels)
        if volume.voxels.ndim == 4 and count != frames:
            self.problems.append(
                f"{volume.name} has {count} frames but {self.sequence.name} has {frames}; they "
                "must be equal"
            )
            return None
        try:
            voxels, notes = aligned(self.grid, volume)
        except DataError as error:
            self.problems.append(str(error))
            return None
        self.notes += notes
        return voxels

    def labels(self, phases: list[Phase]) -> dict[int, UInt8[np.ndarray, "d h w"]]:
        """0-based frame -> labels. The files of single frames win over the 4D labels.

        Where others have labels, a frame of nothing but background counts as unlabelled, as in the
        M&Ms challenge: a heart has some volume in every frame.
        """
        whole = Kind(labels=True)
        kinds = {phase.frame: Kind(phase.file, labels=True) for phase in phases}
        if not self.files.keys() & {whole, *kinds.values()}:
            self.notes.append("no labels")
            return {}
        before = len(self.problems)
        every = self.label_file(whole, 4)
        found = {} if every is None else dict(enumerate(every))
        for frame, kind in kinds.items():
            one = self.label_file(kind, 3)
            found |= {} if one is None else {frame - 1: one}
        if len(self.problems) > before:
            return {}
        labels = {frame: one for frame, one in found.items() if one.any()}
        if every is not None and 0 < len(labels) < len(found):
            have = ", ".join(str(frame + 1) for frame in sorted(labels))
            self.notes.append(f"only frames {have} are labelled; the others count as unlabelled")
        missing = {frame: kind for frame, kind in kinds.items() if frame - 1 not in labels}
        if missing == kinds:
            from_zero = labels and kinds.keys() <= labels.keys()
            why = f": {INFO} seems to count from 0" if from_zero else ""
            self.notes.append(f"no labels of ED and ES{why}")
            return {}
        for frame, kind in missing.items():
            paths = self.files.get(kind) or self.files.get(whole)
            what = f"{paths[0].name} has no label of frame {frame}" if paths else self.missing(kind)
            self.problems.append(f"{what}; labels are needed for both ED and ES, or for neither")
        if any(swapped(labels[frame - 1]) for frame in kinds.keys() - missing.keys()):
            self.notes.append(f"label 1 lies inside label 2: the codes seem to be {MNMS}")
        return labels

    def label_file(self, kind: Kind, ndim: int) -> np.ndarray | None:
        """Labels on the image's grid, None if there are none or they cannot be used."""
        if kind not in self.files:
            return None
        try:
            volume = read_labels(self.files[kind][0], ndim)
        except DataError as error:
            self.problems.append(str(error))
            return None
        self.notes += volume.notes
        return self.on_grid(volume)


def _number(text: str) -> int:
    """A frame's number; -1, which no frame has, for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
