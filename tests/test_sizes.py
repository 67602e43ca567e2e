"""Voxel sizes that cannot be, and ranges of intensity that a few voxels set."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import ZOOMS, config_of, edit_header, make_patient, save, write

from mstg_jax import runs
from mstg_jax.config import Config, DataConfig, SettingsError, from_json, to_json
from mstg_jax.data.acdc import read_patient
from mstg_jax.data.export import write_sequence
from mstg_jax.data.geometry import Geometry
from mstg_jax.data.nifti import DataError
from mstg_jax.data.pair import read_pair
from mstg_jax.data.patient import Patient
from mstg_jax.data.pipeline import example_of, load_examples
from mstg_jax.evaluation.__main__ import Settings, read_configs

PIXDIM, UNITS, SROW = 80, 123, 280  # byte offsets in a NIfTI-1 header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "patient007"


def with_header(folder: Path, pixdim, affine: np.ndarray, unit: int = 0) -> Patient:
    """A patient all of whose files have these voxel sizes, affine and unit of length."""
    make_patient(folder, suffix=".nii")
    for path in folder.glob("*.nii"):
        edit_header(path, PIXDIM, np.array(pixdim, "<f4").tobytes())
        edit_header(path, SROW, affine[:3].astype("<f4").tobytes())
        edit_header(path, UNITS, bytes([unit]))
    return read_patient(folder)


def test_sizes_of_1_beside_a_real_affine_give_way_to_it(folder: Path, tmp_path: Path):
    patient = with_header(folder, (1, 1, 1), np.diag([-1.25, -1.5, 10, 1]))
    assert patient.spacing == (10, 1.5, 1.25)
    assert patient.notes == (
        "patient007_4d.nii: voxel sizes of 1 x 1 x 1 mm beside an affine of 1.25 x 1.5 x 10 mm; "
        "taken: 1.25 x 1.5 x 10 mm",
    )
    write_sequence(tmp_path / "out.nii", patient.frames, patient)
    written = nib.Nifti1Image.from_filename(tmp_path / "out.nii")
    assert written.header.get_zooms()[:3] == (1, 1, 1)
    assert np.array_equal(written.affine, patient.affine)


def test_other_sizes_stand_beside_any_affine(folder: Path):
    patient = with_header(folder, ZOOMS, np.diag([-1.25, -1.5, 8, 1]))
    assert patient.spacing == ZOOMS[::-1]
    assert patient.notes == (
        "patient007_4d.nii: voxel sizes of 1.25 x 1.5 x 10 mm beside an affine of "
        "1.25 x 1.5 x 8 mm; taken: 1.25 x 1.5 x 10 mm",
    )


@pytest.mark.parametrize(("unit", "name", "scale"), [(1, "m", 1e-3), (3, "micron", 1e3)])
def test_sizes_in_another_unit_become_mm(folder: Path, unit: int, name: str, scale: float):
    affine = np.diag([-1.25 * scale, -1.5 * scale, 10 * scale, 1])
    patient = with_header(folder, np.array(ZOOMS) * scale, affine, unit)
    assert patient.spacing == pytest.approx(ZOOMS[::-1])
    assert patient.notes == (
        f"patient007_4d.nii: voxel sizes in {name}, which make 1.25 x 1.5 x 10 mm",
    )


@pytest.mark.parametrize(
    ("sizes", "note"),
    [
        ((1, 1, 1), "voxel sizes of 1 x 1 x 1 mm, as if nobody had filled them in"),
        ((10, 1.5, 1.5), "slices seem to lie along x, but are taken to lie along z"),
        ((1.5, 10, 1.5), "slices seem to lie along y, but are taken to lie along z"),
        ((1500, 1500, 10000), "which cannot be those of a heart in mm"),
        ((1.5, 1.5, 1.2), None),
        ((0.7, 0.7, 5), None),
    ],
)
def test_sizes_that_cannot_be_are_a_note(folder: Path, sizes, note: str | None):
    patient = with_header(folder, sizes, np.diag([-sizes[0], -sizes[1], sizes[2], 1]))
    assert patient.spacing == pytest.approx(sizes[::-1])
    assert [note in n for n in patient.notes if note] == [True] * (note is not None)


def spiked(folder: Path) -> Patient:
    """ED reaches from 0 to 32767 by two voxels of 4608; nothing else is above 199."""
    frames = make_patient(folder, shape=(5, 8, 24, 24))
    frames[:, 0, 0, 0] = 32767
    save(folder / f"{folder.name}_4d.nii.gz", frames, (*ZOOMS, 0.04))
    for number in (1, 4):
        save(folder / f"{folder.name}_frame{number:02d}.nii.gz", frames[number - 1], ZOOMS)
    return read_patient(folder)


def test_a_range_that_few_voxels_set_is_a_note(folder: Path):
    notes = spiked(folder).notes
    assert len(notes) == 1
    assert notes[0].startswith("ED reaches from 0 to 32767 but 99.8 % of its voxels lie in 0 to ")
    ed, es = (folder / f"patient007_frame{number:02d}.nii.gz" for number in (1, 4))
    assert read_pair(ed, es, 300.0).notes == notes


def test_percentiles_set_the_range_and_nothing_is_clipped(folder: Path):
    patient = spiked(folder)
    ed = patient.frames[0]
    grid = (patient.spacing, (8, 24, 24), "centre")
    whole = Geometry.fit(patient, *grid)
    assert (whole.low, whole.high) == (ed.min(), ed.max()) == (0, 32767)
    assert Geometry.fit(patient, *grid, (0.0, 100.0)) == whole
    geometry = Geometry.fit(patient, *grid, (0.1, 99.9))
    assert (geometry.low, geometry.high) == tuple(np.percentile(ed, (0.1, 99.9)))
    assert geometry.high < 200
    model = geometry.forward(patient.frames)
    assert model[0, 0, 0, 0] == pytest.approx((32767 - geometry.low) / geometry.high, rel=1e-3)
    np.testing.assert_allclose(
        geometry.inverse_change(model) + geometry.low, patient.frames, atol=1e-2
    )


def test_percentiles_that_leave_no_range_are_refused(folder: Path):
    patient = spiked(folder)
    frames = np.where(patient.frames < 30, 0, patient.frames)
    with pytest.raises(
        DataError, match=r"patient007: ED's percentiles \(1\.0, 20\.0\) are 0 and 0"
    ):
        example_of(
            dataclasses.replace(patient, frames=frames),
            DataConfig(size=(8, 16, 16), percentiles=(1.0, 20.0)),
        )


def test_the_cache_follows_the_percentiles(tmp_path: Path):
    write(tmp_path / "acdc", 1, 2)
    before = load_examples(config_of(tmp_path))[0][0]
    after = load_examples(config_of(tmp_path, percentiles=(1.0, 90.0)))[0][0]
    ed = read_patient(before.folder).frames[0]
    assert (before.geometry.low, before.geometry.high) == (ed.min(), ed.max())
    assert (after.geometry.low, after.geometry.high) == tuple(np.percentile(ed, (1, 90)))
    assert after.frames.max() > before.frames.max()


@pytest.mark.parametrize("wrong", [(50.0, 50.0), (99.0, 1.0), (-1.0, 100.0), (0.0, 101.0)])
def test_percentiles_are_two_numbers_in_order(wrong: tuple[float, float]):
    with pytest.raises(SettingsError, match=r"data\.percentiles is .* two numbers in \[0, 100\]"):
        Config(data=DataConfig(percentiles=wrong)).check()


def test_runs_of_other_percentiles_are_not_compared(tmp_path: Path):
    for name, high in ("a", 100.0), ("b", 99.9):
        data = DataConfig(root="acdc", percentiles=(0.0, high))
        runs.create(Config(data=data, run=str(tmp_path / name)))
    both = (str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(SettingsError, match=r"data\.percentiles \(0\.0, 99\.9\) but"):
        read_configs(Settings(runs=both, out=tmp_path))


def test_runs_from_before_the_percentiles_have_the_whole_range():
    stored = to_json(Config())
    del stored["data"]["percentiles"]
    assert from_json(stored) == Config()
    assert Config().data.percentiles == (0, 100)
