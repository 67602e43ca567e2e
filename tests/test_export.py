"""Sequences that are written with a patient's own header."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import edit_header, make_patient

from mstg_jax.data.acdc import read_patient
from mstg_jax.data.export import write_flow, write_sequence


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "patient007"


@pytest.mark.parametrize("codes", [(0, 2), (1, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("stride", [1.0, 0.5])
def test_write_sequence_keeps_the_header(folder: Path, codes, stride, tmp_path: Path):
    make_patient(folder, suffix=".nii")
    path = folder / "patient007_4d.nii"
    edit_header(path, 252, np.array(codes, "<i2").tobytes())
    edit_header(path, 112, np.array([0.5, 7], "<f4").tobytes())
    patient = read_patient(folder)
    frames = np.random.default_rng(0).normal(size=(7, 3, 9, 8)).astype(np.float32)
    out = tmp_path / "out.nii.gz"
    write_sequence(out, frames, patient, stride)
    first = out.read_bytes()
    written, source = (nib.Nifti1Image.from_filename(p) for p in (out, path))
    assert np.array_equal(written.get_fdata(dtype=np.float32), frames.T)
    assert written.get_data_dtype() == np.float32
    assert written.header.get_zooms()[:3] == source.header.get_zooms()[:3]
    assert written.header.get_zooms()[3] == np.float32(stride * 0.04)
    assert np.array_equal(written.affine, source.affine)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    for key in ("qform_code", "sform_code", "quatern_d", "srow_x", "qoffset_x"):
        assert np.array_equal(written.header[key], source.header[key]), key
    write_sequence(out, frames, patient, stride)
    assert out.read_bytes() == first


def test_write_sequence_needs_the_native_grid(folder: Path, tmp_path: Path):
    make_patient(folder)
    with pytest.raises(ValueError, match=r"whose grid is \(3, 9, 8\)"):
        write_sequence(tmp_path / "o.nii", np.zeros((2, 3, 9, 9), np.float32), read_patient(folder))


@pytest.mark.parametrize("unit", ["sec", "msec", "usec", "unknown"])
def test_the_time_step_stays_in_the_headers_unit(folder: Path, tmp_path: Path, unit: str):
    make_patient(folder, suffix=".nii")
    units = nib.Nifti1Header()
    units.set_xyzt_units("mm", unit)
    edit_header(folder / "patient007_4d.nii", 123, units["xyzt_units"].tobytes())
    edit_header(folder / "patient007_4d.nii", 92, np.array(33.5, "<f4").tobytes())
    patient = read_patient(folder)
    write_sequence(tmp_path / "out.nii", patient.frames, patient, 0.5)
    write_flow(tmp_path / "flow.nii", np.zeros((3, 3, 9, 8, 3), np.float32), patient, 2.0)
    for name, step in ("out", 16.75), ("flow", 67):
        header = nib.Nifti1Image.from_filename(tmp_path / f"{name}.nii").header
        assert header.get_xyzt_units() == ("mm", unit)
        assert header.get_zooms()[3] == step


@pytest.mark.parametrize("step", [0, -1, np.nan, np.inf])
def test_without_a_time_step_the_written_one_has_no_unit(folder: Path, tmp_path: Path, step: float):
    make_patient(folder, suffix=".nii")
    edit_header(folder / "patient007_4d.nii", 92, np.array(step, "<f4").tobytes())
    patient = read_patient(folder)
    assert patient.frame_time is None
    write_sequence(tmp_path / "out.nii", patient.frames, patient, 0.5)
    header = nib.Nifti1Image.from_filename(tmp_path / "out.nii").header
    assert header.get_xyzt_units() == ("mm", "unknown")
    assert header.get_zooms()[3] == 1


def test_what_was_read_from_nifti2_is_written_as_nifti2(folder: Path, tmp_path: Path):
    make_patient(folder)
    path = folder / "patient007_4d.nii.gz"
    image = nib.Nifti1Image.from_filename(path)
    header = nib.Nifti2Header()
    header.set_xyzt_units("mm", "msec")
    again = nib.Nifti2Image(np.asarray(image.dataobj), image.affine, header)
    again.header.set_zooms(image.header.get_zooms())
    nib.save(again, path)
    patient = read_patient(folder)
    write_sequence(tmp_path / "out.nii", patient.frames, patient)
    written = nib.Nifti2Image.from_filename(tmp_path / "out.nii")
    assert np.array_equal(written.get_fdata(dtype=np.float32), patient.frames.T)
    assert written.header.get_xyzt_units() == ("mm", "msec")
    assert written.header.get_zooms() == image.header.get_zooms()
