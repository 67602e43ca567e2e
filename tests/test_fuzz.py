"""Damaged patients, the same ones in each run: an error that names it, a note, or nothing changed.

Sharply: a damaged patient that is read without a note has the frames and labels of the undamaged
one, except where the damage says that the stored voxels are other numbers (VALUES): then it has
what nibabel reads.
"""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import make_patient

from mstg_jax.data.acdc import DataError, read_patient
from mstg_jax.data.export import write_sequence
from mstg_jax.data.patient import Patient

VALUES = {"datatype", "scl_slope", "scl_inter"}
"""The fields of a header that say which numbers the stored bits are."""
FIELDS = nib.Nifti1Header.template_dtype
FILES = ("4d", "frame01", "frame02_gt")
Damage = Callable[[np.random.Generator], tuple[str, bytes, set[str]]]


class Fuzzed:
    """A tiny patient, and what is damaged in it: a file's name, its new bytes, fields touched."""

    def __init__(self, folder: Path, suffix: str):
        self.folder, self.suffix = folder, suffix
        make_patient(folder, shape=(3, 2, 5, 4), es=2, suffix=suffix)
        self.whole = read_patient(folder)
        self.bytes = {path.name: path.read_bytes() for path in folder.iterdir()}

    def image(self, rng: np.random.Generator) -> tuple[str, bytearray]:
        name = f"{self.folder.name}_{rng.choice(FILES)}{self.suffix}"
        return name, bytearray(self.bytes[name])

    def field(self, rng: np.random.Generator) -> tuple[str, bytes, set[str]]:
        """One number of a header becomes another."""
        name, data = self.image(rng)
        field = str(rng.choice(FIELDS.names))
        dtype, start = FIELDS.fields[field]
        base, count = dtype.subdtype or (dtype, (1,))
        place = start + base.itemsize * int(rng.integers(count[0]))
        data[place : place + base.itemsize] = number(base, rng)
        return name, bytes(data), {field}

    def header_byte(self, rng: np.random.Generator) -> tuple[str, bytes, set[str]]:
        name, data = self.image(rng)
        place = int(rng.integers(352))
        data[place] = rng.integers(256)
        touched = {
            n for n, (dtype, at) in FIELDS.fields.items() if 0 <= place - at < dtype.itemsize
        }
        return name, bytes(data), touched

    def stream(self, rng: np.random.Generator) -> tuple[str, bytes, set[str]]:
        """Compressed bytes that are lost, changed, doubled, or followed by others."""
        name, data = self.image(rng)
        return name, scrambled(data, rng), set()

    def info(self, rng: np.random.Generator) -> tuple[str, bytes, set[str]]:
        return "Info.cfg", scrambled(bytearray(self.bytes["Info.cfg"]), rng), set()

    def read(self, damage: Damage, rng: np.random.Generator) -> tuple[str, Patient | None]:
        """`refused`, `noted` or `quiet`; raises AssertionError for a silent change."""
        name, data, touched = damage(rng)
        path = self.folder / name
        path.write_bytes(data)
        try:
            patient = read_patient(self.folder)
        except DataError as error:
            lines = str(error).splitlines()
            assert lines
            assert all(line.startswith(f"{self.folder.name}: ") for line in lines)
            return "refused", None
        finally:
            path.write_bytes(self.bytes[name])
        if patient.notes:
            return "noted", patient
        same = [patient.digest == self.whole.digest]
        same += [np.array_equal(patient.labels[i], self.whole.labels[i]) for i in patient.labels]
        if not all(same):
            assert touched & VALUES, (name, touched)
            what = patient.frames if "4d" in name else patient.labels[1]
            image = nib.Nifti1Image.from_bytes(data)
            assert np.array_equal(image.get_fdata(dtype=np.float32), what.T)
        if name != "Info.cfg":
            assert (patient.ed, patient.es) == (self.whole.ed, self.whole.es)
            assert np.allclose(patient.spacing, self.whole.spacing, rtol=0.2)  # half a voxel of 4
        return "quiet", patient


def number(dtype: np.dtype, rng: np.random.Generator) -> bytes:
    """Any bits, or a number that often means trouble."""
    if dtype.kind not in "iuf" or rng.random() < 0.3:
        return rng.bytes(dtype.itemsize)
    if dtype.kind == "f":
        values = [0, -1, 1, 0.5, 1e-30, 1e38, np.nan, np.inf, -np.inf, 352, 351, -352]
    else:
        info = np.iinfo(dtype)
        values = [0, 1, 2, 3, 7, 8, 255, 30000, info.max, info.min, -1]
    with np.errstate(all="ignore"):
        return np.array(rng.choice(values)).astype(dtype).tobytes()


def scrambled(data: bytearray, rng: np.random.Generator) -> bytes:
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
    match rng.integers(6):
        case 0:
            data[place] ^= 1 << int(rng.integers(8))
        case 1:
            data[place : place + length] = rng.bytes(length)
        case 2:
            del data[place : place + length]
        case 3:
            data[place:place] = data[place : place + length]
        case 4:
            del data[place:]
        case _:
            data += rng.bytes(length) if rng.random() < 0.5 else bytes(length)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "suffix", "count"),
    [
        ("field", ".nii", 150),
        ("header_byte", ".nii", 70),
        ("stream", ".nii.gz", 90),
        ("info", ".nii", 60),
    ],
)
def test_no_damage_escapes(tmp_path: Path, kind: str, suffix: str, count: int):
    fuzzed, rng = Fuzzed(tmp_path / "patient001", suffix), np.random.default_rng(0)
    outcomes = set()
    for _ in range(count):
        outcome, patient = fuzzed.read(getattr(fuzzed, kind), rng)
        outcomes.add(outcome)
        if patient is not None:
            write_sequence(tmp_path / "out.nii", patient.frames, patient)
    assert outcomes == {"refused", "noted", "quiet"}


@pytest.mark.parametrize("bits", [64, 16])
def test_a_header_that_claims_terabytes_takes_none(tmp_path: Path, bits: int):
    folder = tmp_path / "patient001"
    make_patient(folder, suffix=".nii")
    path = folder / "patient001_4d.nii"
    data = bytearray(path.read_bytes())
    data[40:50] = np.array([4, 30000, 30000, 30000, 30000], "<i2").tobytes()
    data[70:74] = np.array([bits, bits], "<i2").tobytes()
    path.write_bytes(bytes(data))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"patient001_4d\.nii cannot be read"):
        read_patient(folder)
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()
