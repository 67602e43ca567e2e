import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import ZOOMS, edit_header, make_patient, problems_of, save, set_info

from mstg_jax.data import verify
from mstg_jax.data.acdc import DataError, find_patients, read_patient
from mstg_jax.data.export import write_sequence


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "patient007"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_reads_what_was_written(folder: Path, suffix: str):
    frames = make_patient(folder, suffix=suffix)
    patient = read_patient(folder)
    assert (patient.id, patient.group, patient.ed, patient.es) == ("patient007", "NOR", 0, 3)
    assert np.array_equal(patient.frames, frames)
    assert set(patient.labels) == {0, 3}
    assert patient.labels[0].shape == frames.shape[1:]
    assert patient.notes == ()


def test_spacing_is_the_headers_not_the_affines(folder: Path):
    make_patient(folder, spacing=(10.0, 1.5, 1.25))
    patient = read_patient(folder)
    assert patient.spacing == (10.0, 1.5, 1.25)
    assert np.array_equal(np.abs(np.diag(patient.affine)), np.ones(4))


@pytest.mark.parametrize(
    ("ed", "es", "sequence"),
    [(1, 4, [0, 1, 2, 3]), (4, 2, [3, 4, 0, 1]), (2, 3, [1, 2]), (5, 1, [4, 0])],
)
def test_sequence_runs_from_ed_to_es_round_the_cycle(folder, ed, es, sequence):
    make_patient(folder, ed=ed, es=es)
    assert read_patient(folder).sequence == sequence


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_types_of_voxels(folder: Path, dtype: type):
    frames = make_patient(folder, dtype=dtype, shape=(4, 1, 6, 6))
    patient = read_patient(folder)
    assert patient.frames.dtype == np.float32
    assert np.array_equal(patient.frames, frames)


def test_labels_of_every_frame(folder: Path):
    make_patient(folder, labels="all")
    assert set(read_patient(folder).labels) == set(range(5))


def test_labels_of_single_frames_win_over_the_4d_labels(folder: Path):
    frames = make_patient(folder, labels="all")
    mine = np.full(frames.shape[1:], 2, np.uint8)
    save(folder / "patient007_frame01_gt.nii.gz", mine, ZOOMS)
    labels = read_patient(folder).labels
    assert np.array_equal(labels[0], mine)
    assert not np.array_equal(labels[1], mine)


@pytest.mark.parametrize("es", [4, 5])
def test_frames_of_background_between_labelled_ones_are_unlabelled(folder: Path, es: int):
    """4D labels as in the M&Ms challenge, of ED and ES alone."""
    make_patient(folder, labels="all", es=4)
    path = folder / "patient007_4d_gt.nii.gz"
    every = np.asarray(nib.Nifti1Image.from_filename(path).dataobj).T.copy()
    every[[1, 2, 4]] = 0
    save(path, every, (*ZOOMS, 0.04))
    set_info(folder, ES=es)
    if es == 5:
        needed = "labels are needed for both ED and ES, or for neither"
        assert problems_of(folder).endswith(f"{path.name} has no label of frame 5; {needed}")
        set_info(folder, ED=2)
        assert read_patient(folder).labels == {}
        return
    patient = read_patient(folder)
    assert set(patient.labels) == {0, 3}
    assert patient.notes == ("only frames 1, 4 are labelled; the others count as unlabelled",)


def test_a_label_file_without_a_label_is_no_heart_of_volume_0(folder: Path):
    frames = make_patient(folder)
    path = folder / "patient007_frame04_gt.nii.gz"
    save(path, np.zeros(frames.shape[1:], np.uint8), ZOOMS)
    assert f"{path.name} has no label of frame 4; labels are needed" in problems_of(folder)


@pytest.mark.parametrize("mnms", [False, True])
def test_a_right_ventricle_inside_the_myocardium_is_a_note(folder: Path, mnms: bool):
    """The left ventricle in a ring, the right one beside it; M&Ms has the codes the other way."""
    make_patient(folder, shape=(5, 3, 12, 16))
    left, right = (1, 3) if mnms else (3, 1)
    labels = np.zeros((3, 12, 16), np.uint8)
    labels[:, 2:10, 2:9] = 2
    labels[:, 4:8, 4:7] = left
    labels[:, 3:9, 9:14] = right
    labels[0, 4:8, 2:4] = 0  # a ring that is open, as at the base
    for number in (1, 4):
        save(folder / f"patient007_frame{number:02d}_gt.nii.gz", labels, ZOOMS)
    note = "label 1 lies inside label 2: the codes seem to be those of M&Ms (1 left ventricle, "
    assert [n.startswith(note) for n in read_patient(folder).notes] == [True] * mnms


def test_no_labels_is_a_note(folder: Path):
    make_patient(folder, labels="none")
    patient = read_patient(folder)
    assert patient.labels == {}
    assert patient.notes == ("no labels",)


def test_frame_file_that_differs_from_the_4d_is_a_note(folder: Path):
    frames = make_patient(folder)
    save(folder / "patient007_frame04.nii.gz", frames[1], ZOOMS)
    patient = read_patient(folder)
    assert np.array_equal(patient.frames[3], frames[3])
    assert "patient007_frame04.nii.gz differs from frame 4" in patient.notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"ES": 19},
            "Info.cfg says ES: 19 but patient007_4d.nii.gz has 5 frames; ES must lie in 1..5",
        ),
        ({"ED": 0}, "Info.cfg says ED: 0 but"),
        (
            {"ED": -1},
            "Info.cfg says ED: -1 but patient007_4d.nii.gz has 5 frames; ED must lie in 1..5",
        ),
        (
            {"ED": "one"},
            "Info.cfg says ED: one but patient007_4d.nii.gz has 5 frames; ED must lie in 1..5",
        ),
        ({"ED": None}, "Info.cfg does not give ED"),
        ({"ES": None}, "Info.cfg does not give ES"),
        ({"ES": 1}, "Info.cfg says ED: 1 and ES: 1; a sequence needs two different frames"),
    ],
)
def test_bad_info(folder: Path, values: dict, message: str):
    make_patient(folder)
    set_info(folder, **values)
    assert message in problems_of(folder)


def test_missing_or_unreadable_info(folder: Path):
    make_patient(folder)
    (folder / "Info.cfg").write_bytes(b"\xff\xfe\x00ED")
    assert "Info.cfg cannot be read" in problems_of(folder)
    (folder / "Info.cfg").unlink()
    assert "Info.cfg cannot be read ([Errno 2] No such file" in problems_of(folder)


def test_wrong_number_of_frames_is_a_note(folder: Path):
    make_patient(folder)
    set_info(folder, NbFrame=30)
    assert read_patient(folder).notes == ("Info.cfg says NbFrame: 30, the 4D has 5",)


@pytest.mark.parametrize("name", ["frame01_gt", "frame04", "4d_gt"])
def test_shapes_must_agree(folder: Path, name: str):
    make_patient(folder, labels="all")
    whole = name == "4d_gt"
    shape = (5, 3, 9, 9) if whole else (3, 9, 9)
    voxels = np.ones(shape, np.uint8)
    voxels[..., 0] = 2
    save(folder / f"patient007_{name}.nii.gz", voxels, (*ZOOMS, 0.04)[: len(shape)])
    found = problems_of(folder)
    assert f"patient007_{name}.nii.gz has shape (9, 9, 3) but the image in patient007_4d" in found
    if whole:
        save(folder / "patient007_4d_gt.nii.gz", voxels[:4, :, :, :8], (*ZOOMS, 0.04))
        assert "patient007_4d_gt.nii.gz has 4 frames but patient007_4d.nii" in problems_of(folder)
        save(folder / "patient007_4d_gt.nii.gz", voxels[0], ZOOMS)
        assert "has shape (9, 9, 3); it must be (x, y, z, t)" in problems_of(folder)


def test_labels_of_one_frame_only(folder: Path):
    make_patient(folder)
    (folder / "patient007_frame04_gt.nii.gz").unlink()
    assert "patient007_frame04_gt.nii.gz (or .nii) is missing" in problems_of(folder)


def test_missing_4d(folder: Path):
    make_patient(folder)
    (folder / "patient007_4d.nii.gz").unlink()
    set_info(folder, ED=0)
    found = problems_of(folder)
    assert "patient007_4d.nii.gz (or .nii) is missing" in found
    assert "Info.cfg says ED: 0 but ED must be a whole number, 1 or more" in found


def test_every_problem_is_listed(folder: Path):
    frames = make_patient(folder, dtype=np.float32)
    set_info(folder, ES=None)
    frames[0, 0, 0, 0] = np.nan
    save(folder / "patient007_4d.nii.gz", frames, (*ZOOMS, 0.04))
    (folder / "patient007_frame01_gt.nii.gz").write_bytes(b"nothing")
    lines = problems_of(folder).splitlines()
    assert len(lines) == 3
    assert ["ES" in lines[0], "NaN" in lines[1], "_gt" in lines[2]] == [True] * 3


def test_layouts(tmp_path: Path):
    for name in ("official/training/patient001", "official/testing/patient101", "flat/patient002"):
        make_patient(tmp_path / name)
    (tmp_path / "flat" / "notes.txt").write_text("not a patient")
    official = find_patients(tmp_path / "official")
    assert [p.name for p in official["training"]] == ["patient001"]
    assert [p.name for p in official["testing"]] == ["patient101"]
    flat = find_patients(tmp_path / "flat")
    assert [p.name for p in flat["training"]] == ["patient002"]
    assert flat["testing"] == []


def test_zero_patients(tmp_path: Path):
    (tmp_path / "database").mkdir()
    with pytest.raises(DataError, match="zero patients; it holds database; the layout needed is"):
        find_patients(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_patients(tmp_path / "absent")


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


def test_verify_prints_every_patient_and_problem(tmp_path: Path, capsys, monkeypatch):
    make_patient(tmp_path / "training" / "patient001")
    make_patient(tmp_path / "training" / "patient002", labels="none", ed=4, es=1, seed=1)
    make_patient(tmp_path / "testing" / "patient003")
    make_patient(tmp_path / "testing" / "patient004")
    set_info(tmp_path / "testing" / "patient004", ES=99, ED=None)
    monkeypatch.setattr(sys, "argv", ["acdc", "verify", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        verify.main()
    assert caught.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.match(
        r"patient001 training NOR .*5x3x9x8.*10x1.5x1.25 mm int16 +ED +1 ES +4$", lines[0]
    )
    assert lines[1].endswith("ED  4 ES  1  (no labels)")
    assert lines[2].endswith("(same images as patient001)")
    assert lines[3] == "patient004 testing BROKEN"
    assert "does not give ED" in lines[4]
    assert "ES: 99" in lines[5]
    assert lines[-1] == "3 of 4 patients are fine"


def test_verify_as_a_command(tmp_path: Path):
    make_patient(tmp_path / "patient001")
    command = [sys.executable, "-W", "error", "-m", "mstg_jax.data.acdc", "verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 of 1 patients are fine\n")
    empty = subprocess.run([*command[:-1], str(tmp_path / "no")], capture_output=True, check=False)
    assert (empty.returncode, b"no such folder" in empty.stderr) == (1, True)


@pytest.mark.skipif("MSTG_ACDC_ROOT" not in os.environ, reason="MSTG_ACDC_ROOT is not set")
def test_real_patients_are_fine(capsys):
    assert verify.verify(Path(os.environ["MSTG_ACDC_ROOT"])) == 0
