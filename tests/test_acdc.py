from pathlib import Path

import numpy as np
import pytest
from acdc_files import ZOOMS, make_patient, problems_of, save, set_info

from mstg_jax.data.acdc import DataError, find_patients, read_patient


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
        ({"ES": 1}, "Info.cfg says ED: 1 and ES: 1; a sequence needs different frames"),
    ],
)
def test_bad_info(folder: Path, values: dict, message: str):
    make_patient(folder)
    set_info(folder, **values)
    assert message in problems_of(folder)


@pytest.mark.parametrize("again", ["1", "3"])
def test_info_that_gives_a_frame_twice(folder: Path, again: str):
    make_patient(folder)
    with (folder / "Info.cfg").open("a", encoding="utf-8") as file:
        file.write(f"ED: {again}\n")
    if again == "1":
        assert read_patient(folder).ed == 0
    else:
        assert "Info.cfg gives ED as 1 and 3; it needs a line `ED: <frame" in problems_of(folder)


def test_no_folder(folder: Path):
    with pytest.raises(DataError, match=r"patient007: the folder cannot be read \(\[Errno 2\]"):
        read_patient(folder)


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
    (tmp_path / "flat" / "notes.txt").write_text("not a patient", encoding="utf-8")
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


def test_two_files_of_one_kind_that_differ_are_a_note(folder: Path):
    frames = make_patient(folder)
    for voxels in (frames, frames[::-1]):
        save(folder / "patient007_4d.nii", voxels, (*ZOOMS, 0.04))
        patient = read_patient(folder)
        assert np.array_equal(patient.frames, frames)
        note = "patient007_4d.nii differs from patient007_4d.nii.gz, which is used"
        assert patient.notes == (note,) * (voxels is not frames)


@pytest.mark.parametrize("labels", ["frames", "none"])
@pytest.mark.parametrize("files", [(2, 4), (1, 3)], ids=["from 1", "from 0"])
def test_info_that_counts_from_0_gives_way_to_the_files_of_the_frames(folder, files, labels):
    """Their numbers tell where these count from 1, and their voxels where they count from 0."""
    frames = make_patient(folder, ed=2, es=4, labels=labels)
    truth = read_patient(folder)
    for old, new in zip((2, 4), files, strict=True):
        for path in sorted(folder.glob(f"*_frame{old:02d}*")):
            path.rename(folder / path.name.replace(f"frame{old:02d}", f"frame{new:02d}"))
    set_info(folder, ED=1, ES=3)
    patient = read_patient(folder)
    assert (patient.ed, patient.es) == (1, 3)
    assert np.array_equal(patient.frames, frames)
    assert all(np.array_equal(patient.labels[i], truth.labels[i]) for i in truth.labels)
    note = f"Info.cfg says ED: 1 and ES: 3; by the files of the frames, numbers {files[0]} and "
    assert [n.startswith(note) for n in patient.notes if n != "no labels"] == [True]


def test_info_is_right_where_the_files_of_the_frames_show_what_it_says(folder: Path):
    """Also if they have other frames' voxels: neither shift makes them right."""
    frames = make_patient(folder, ed=2, es=4)
    save(folder / "patient007_frame02.nii.gz", frames[4], ZOOMS)
    patient = read_patient(folder)
    assert (patient.ed, patient.es) == (1, 3)
    assert patient.notes == (
        "patient007_frame02.nii.gz differs from frame 2 of the 4D, which is used",
    )


@pytest.mark.parametrize("name", ["frame1", "frame001", "FRAME01"])
def test_names_of_frames_may_be_written_in_other_ways(folder: Path, name: str):
    make_patient(folder)
    for path in sorted(folder.glob("*_frame01*")):
        path.rename(folder / path.name.replace("frame01", name))
    assert set(read_patient(folder).labels) == {0, 3}
