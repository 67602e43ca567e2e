"""Which frames are labelled, and in which codes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import ZOOMS, make_patient, problems_of, save, set_info

from mstg_jax.data.acdc import read_patient


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "patient007"


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


def test_labels_one_frame_after_each_of_infos_are_a_note(folder: Path):
    """Without files of single frames nothing else shows that Info.cfg counts from 0."""
    make_patient(folder, labels="all", ed=2, es=4)
    path = folder / "patient007_4d_gt.nii.gz"
    every = np.asarray(nib.Nifti1Image.from_filename(path).dataobj).T.copy()
    every[[0, 2, 4]] = 0
    save(path, every, (*ZOOMS, 0.04))
    for frame in folder.glob("*_frame*"):
        frame.unlink()
    set_info(folder, ED=1, ES=3)
    patient = read_patient(folder)
    assert patient.labels == {}
    assert patient.notes == (
        "only frames 2, 4 are labelled; the others count as unlabelled",
        "no labels of ED and ES: Info.cfg seems to count from 0",
    )


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


def test_labels_of_one_frame_only(folder: Path):
    make_patient(folder)
    (folder / "patient007_frame04_gt.nii.gz").unlink()
    assert "patient007_frame04_gt.nii.gz (or .nii) is missing" in problems_of(folder)
