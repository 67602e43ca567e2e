"""Sequences that are written with a patient's own header."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import edit_header, make_patient

from mstg_jax.data.acdc import read_patient
from mstg_jax.data.export import write_sequence


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "patient007"


@pytest.mark.parametrize("codes", [(0, 2), (1, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("frame_time", [None, 0.02])
def test_write_sequence_keeps_the_header(folder: Path, codes, frame_time, tmp_path: Path):
    make_patient(folder, suffix=".nii")
    path = folder / "patient007_4d.nii"
    edit_header(path, 252, np.array(codes, "<i2").tobytes())
    edit_header(path, 112, np.array([0.5, 7], "<f4").tobytes())
    patient = read_patient(folder)
    frames = np.random.default_rng(0).normal(size=(7, 3, 9, 8)).astype(np.float32)
    out = tmp_path / "out.nii.gz"
    write_sequence(out, frames, patient, frame_time)
    first = out.read_bytes()
    written, source = (nib.Nifti1Image.from_filename(p) for p in (out, path))
    assert np.array_equal(written.get_fdata(dtype=np.float32), frames.T)
    assert written.get_data_dtype() == np.float32
    assert written.header.get_zooms()[:3] == source.header.get_zooms()[:3]
    assert written.header.get_zooms()[3] == np.float32(frame_time or 0.04)
    assert np.array_equal(written.affine, source.affine)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    for key in ("qform_code", "sform_code", "quatern_d", "srow_x", "qoffset_x"):
        assert np.array_equal(written.header[key], source.header[key]), key
    write_sequence(out, frames, patient, frame_time)
    assert out.read_bytes() == first


def test_write_sequence_needs_the_native_grid(folder: Path, tmp_path: Path):
    make_patient(folder)
    with pytest.raises(ValueError, match=r"whose grid is \(3, 9, 8\)"):
        write_sequence(tmp_path / "o.nii", np.zeros((2, 3, 9, 9), np.float32), read_patient(folder))
