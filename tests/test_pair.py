"""A patient from two 3D files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import SIZE, ZOOMS, make_patient, save

from mstg_jax.cli import parse_sample
from mstg_jax.config import DataConfig, SettingsError
from mstg_jax.data.nifti import DataError
from mstg_jax.data.pair import read_pair
from mstg_jax.data.pipeline import example_of
from mstg_jax.evaluation.outputs import write_volumes
from mstg_jax.methods import FrameSequence

UNKNOWN = "the time from ED to ES is not known; --duration gives it in ms"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Frames 1 and 4, with a step left over from the sequence."""
    frames = make_patient(tmp_path / "patient007")
    paths = tmp_path / "ED.nii.gz", tmp_path / "ES.nii.gz"
    for path, voxels in zip(paths, (frames[0], frames[3]), strict=True):
        save(path, voxels, ZOOMS)
        image = nib.Nifti1Image.from_filename(path)
        image.header["pixdim"][4] = 33.5
        nib.save(image, path)
    return paths


def test_a_pair_is_a_sequence_of_two(pair: tuple[Path, Path], tmp_path: Path):
    patient = read_pair(*pair)
    frames = make_patient(tmp_path / "patient008")
    assert np.array_equal(patient.frames, frames[[0, 3]])
    assert (patient.id, patient.sequence, patient.labels) == ("ED", [0, 1], {})
    assert patient.spacing == ZOOMS[::-1]
    assert patient.notes == (UNKNOWN,)


@pytest.mark.parametrize(("duration", "unit", "step"), [(None, "unknown", 1), (300.0, "msec", 75)])
def test_a_step_left_over_in_the_header_is_not_the_time_from_ed_to_es(
    pair, tmp_path: Path, duration: float | None, unit: str, step: float
):
    patient = read_pair(*pair, duration)
    example = example_of(patient, DataConfig(size=SIZE))
    made = FrameSequence(np.repeat(example.frames[:1], 5, 0), None)
    write_volumes(tmp_path, patient, example, made)
    header = nib.Nifti1Image.from_filename(tmp_path / "sequence.nii.gz").header
    assert header.get_xyzt_units() == ("mm", unit)
    assert header.get_zooms()[3] == step


@pytest.mark.parametrize("name", ["ED.NII.GZ", "Herz é 心.nii", "ED.hdr", "ED"])
def test_pairs_are_named_after_eds_file(pair: tuple[Path, Path], tmp_path: Path, name: str):
    ed = tmp_path / name
    image = nib.Nifti1Image.from_filename(pair[0])
    if ed.suffix == ".hdr":
        nib.save(nib.Nifti1Pair(image.dataobj, image.affine, image.header), ed)
    else:
        ed.write_bytes(pair[0].read_bytes())
    patient = read_pair(ed, pair[1])
    assert patient.id == name.split(".")[0]
    assert np.array_equal(patient.frames, read_pair(*pair).frames)


def test_the_home_folder_is_written_as_a_tilde(pair: tuple[Path, Path], tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_pair(Path("~/ED.nii.gz"), Path("~/ES.nii.gz")).notes == (UNKNOWN,)
    with pytest.raises(DataError, match=r"~nobody-of-this-name/ED\.nii: no such file"):
        read_pair(Path("~nobody-of-this-name/ED.nii"), pair[1])


@pytest.mark.parametrize("args", [[], ["--ed", "a.nii", "--es", "b.nii"]])
@pytest.mark.parametrize("duration", ["300", "0", "-1", "nan", "inf"])
def test_a_duration_is_of_a_pair_and_positive(args: list[str], duration: str):
    args = [*args, f"--duration={duration}"]
    if len(args) > 1 and duration == "300":
        assert parse_sample(args).duration == 300
    else:
        with pytest.raises(SettingsError, match=r"--duration is .* from --ed to --es in ms"):
            parse_sample(args)
