"""Files that are damaged or not what they should be, as `read_patient` meets them."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from acdc_files import ZOOMS, edit_header, make_patient, problems_of, save

from mstg_jax.data.acdc import read_patient

SLOPE, PIXDIM_X = 112, 80  # byte offsets in a NIfTI-1 header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "patient007"


def test_scaled_integers(folder: Path):
    frames = make_patient(folder, suffix=".nii")
    scaling = np.array([0.5, 7], "<f4")
    edit_header(folder / "patient007_4d.nii", SLOPE, scaling.tobytes())
    assert np.allclose(read_patient(folder).frames, frames * 0.5 + 7)


@pytest.mark.parametrize("name", ["4d", "frame01", "frame04_gt"])
@pytest.mark.parametrize("keep", [0, 20, 0.5, -9])
def test_truncated_gzip(folder: Path, name: str, keep: float):
    make_patient(folder)
    path = folder / f"patient007_{name}.nii.gz"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)])
    assert f"{path.name} cannot be read" in problems_of(folder)


def test_corrupt_gzip_is_caught_by_its_checksum(folder: Path):
    make_patient(folder)
    path = folder / "patient007_4d.nii.gz"
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    data[-200] ^= 0xFF  # stored, not deflated: only the checksum can tell
    path.write_bytes(bytes(data))
    assert "incorrect data check" in problems_of(folder)


def test_truncated_plain_file(folder: Path):
    make_patient(folder, suffix=".nii")
    path = folder / "patient007_4d.nii"
    path.write_bytes(path.read_bytes()[:-1])
    assert re.search(r"4d.nii cannot be read \(it holds \d+ bytes, shape", problems_of(folder))


@pytest.mark.parametrize("value", [0.0, -1.5, np.nan, np.inf])
def test_bad_spacing(folder: Path, value: float):
    make_patient(folder, suffix=".nii")
    edit_header(folder / "patient007_4d.nii", PIXDIM_X, np.array(value, "<f4").tobytes())
    assert "patient007_4d.nii has voxel sizes" in problems_of(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(folder: Path, value: float):
    frames = make_patient(folder, dtype=np.float32)
    frames[2, 0, 1, 1] = value
    save(folder / "patient007_4d.nii.gz", frames, (*ZOOMS, 0.04))
    assert "has 1 NaN or infinite voxels in frames [3]" in problems_of(folder)


def test_constant_frames(folder: Path):
    frames = make_patient(folder)
    frames[1:3] = 7
    save(folder / "patient007_4d.nii.gz", frames, (*ZOOMS, 0.04))
    assert "patient007_4d.nii.gz is constant in frames [2, 3]" in problems_of(folder)


@pytest.mark.parametrize("count", [1, None])
def test_one_frame(folder: Path, count: int | None):
    frames = make_patient(folder)
    single = frames[0] if count is None else frames[:count]
    save(folder / "patient007_4d.nii.gz", single, (*ZOOMS, 0.04)[: single.ndim])
    assert "it must be (x, y, z, t) with 2 or more frames" in problems_of(folder)


@pytest.mark.parametrize("value", [4, 0.5, np.nan, -1])
def test_values_that_are_no_labels(folder: Path, value: float):
    make_patient(folder)
    labels = np.zeros((3, 9, 8), np.float32)
    labels[0, 0, 0] = value
    save(folder / "patient007_frame01_gt.nii.gz", labels, ZOOMS)
    assert "patient007_frame01_gt.nii.gz has the values" in problems_of(folder)
