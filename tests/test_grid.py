"""Whether two files show the same places, and the orientation that one is brought to."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import ZOOMS, edit_header, make_patient, problems_of, save
from nibabel.orientations import apply_orientation, inv_ornt_aff

from mstg_jax.data.acdc import read_patient
from mstg_jax.data.grid import Grid, aligned
from mstg_jax.data.nifti import DataError, Volume, read_image, read_labels
from mstg_jax.data.pair import read_pair

SHAPE = (3, 9, 8)  # d h w
PIXDIM = 76
TURN = nib.eulerangles.euler2mat(0.3, 0.2, -0.7)
OBLIQUE = nib.affines.from_matvec(TURN @ np.diag([-1.25, -1.5, 10]), (40, -25, 12))
TURNS = [
    np.column_stack([order, signs])
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


def volume(voxels: np.ndarray, affine: np.ndarray, name: str = "image.nii") -> Volume:
    return Volume(name, nib.Nifti1Image(voxels.T, affine).header, voxels)


def turned(voxels: np.ndarray, affine: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same places, stored in another orientation."""
    moved = np.ascontiguousarray(apply_orientation(voxels.T, turn)).T
    return moved, affine @ inv_ornt_aff(turn, voxels.shape[:-4:-1])


def shifted(affine: np.ndarray, *mm: float) -> np.ndarray:
    return nib.affines.from_matvec(np.eye(3), mm) @ affine


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.float32)


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: str(turn.tolist()))
def test_any_orientation_comes_back_to_the_images(turn: np.ndarray):
    voxels = noise(2, *SHAPE)
    image = Grid.of(volume(voxels, OBLIQUE))
    back, notes = aligned(image, volume(*turned(voxels, OBLIQUE, turn), "other.nii"))
    assert np.array_equal(back, voxels)
    assert len(notes) == (turn.tolist() != [[0, 1], [1, 1], [2, 1]])
    assert all("other.nii is stored with" in note for note in notes)


def test_turned_by_45_degrees_the_orientation_is_still_that_of_the_other_file():
    """Each affine's own nearest axes are a matter of rounding there."""
    for degrees in np.linspace(44.99, 45.01, 5):
        turn = nib.eulerangles.euler2mat(np.radians(45))
        other = nib.eulerangles.euler2mat(np.radians(degrees))
        sizes, voxels = np.diag([1.5, 1.5, 10]), noise(*SHAPE)
        image = Grid.of(volume(voxels, nib.affines.from_matvec(turn @ sizes, (1, 2, 3))))
        near = volume(voxels, nib.affines.from_matvec(other @ sizes, (1, 2, 3)))
        assert aligned(image, near) == (voxels, ())


@pytest.mark.parametrize(("mm", "fits"), [(0.6, True), (0.65, False)])
def test_the_tolerance_is_half_of_the_smallest_voxel(mm: float, fits: bool):
    voxels = noise(*SHAPE)
    image, near = Grid.of(volume(voxels, OBLIQUE)), volume(voxels, shifted(OBLIQUE, 0, 0, mm))
    if fits:
        assert aligned(image, near) == (voxels, ())
    else:
        with pytest.raises(DataError, match=r"up to 0\.65 mm apart"):
            aligned(image, near)


def test_what_lies_elsewhere_is_refused_with_both_affines():
    voxels = noise(*SHAPE)
    straight = np.diag([-1.25, -1.5, 10, 1])
    image, far = volume(voxels, straight, "ed.nii"), shifted(straight, 80, 0, 40)
    with pytest.raises(DataError) as caught:
        aligned(Grid.of(image), volume(voxels, far, "es.nii"))
    assert str(caught.value) == (
        "es.nii does not lie on ed.nii: it has voxels of 1.25 x 1.5 x 10 mm, x to left, y to back, "
        "z to head, the first at (80, 0, 40) mm, affine [-1.25 0 0 80] [0 -1.5 0 0] [0 0 10 40]; "
        "ed.nii has voxels of 1.25 x 1.5 x 10 mm, x to left, y to back, z to head, the first at "
        "(0, 0, 0) mm, affine [-1.25 0 0 0] [0 -1.5 0 0] [0 0 10 0]; up to 89.4 mm apart"
    )


@pytest.mark.parametrize("scale", [1.2, 0.8])
def test_other_voxel_sizes_are_another_place(scale: float):
    voxels = noise(*SHAPE)
    other = volume(voxels, OBLIQUE @ np.diag([scale, scale, 1, 1]), "es.nii")
    with pytest.raises(DataError, match=r"es\.nii does not lie on image\.nii"):
        aligned(Grid.of(volume(voxels, OBLIQUE)), other)


def test_sizes_beside_unit_affines_must_agree(tmp_path: Path):
    for name, zooms in ("ed", ZOOMS), ("es", (1.25, 1.4, 10.0)):
        save(tmp_path / f"{name}.nii", noise(*SHAPE), zooms)
    with pytest.raises(DataError, match=r"voxels of 1\.25 x 1\.4 x 10 mm.* has voxels of 1\.25 x"):
        read_pair(tmp_path / "ed.nii", tmp_path / "es.nii")


def test_a_tool_may_turn_a_unit_affine_into_a_real_one(tmp_path: Path):
    """The image as in ACDC; the labels with its voxel sizes in their affine, and mirrored in x."""
    labels = (noise(*SHAPE) % 4).astype(np.uint8)
    save(tmp_path / "image.nii", noise(*SHAPE), ZOOMS)
    image = Grid.of(read_image(tmp_path / "image.nii", 3))
    stored, affine = turned(labels, np.diag([-1.25, -1.5, 10, 1]), np.array(TURNS[4]))
    nib.save(nib.Nifti1Image(stored.T, affine), tmp_path / "labels.nii")
    back, notes = aligned(image, read_labels(tmp_path / "labels.nii", 3))
    assert np.array_equal(back, labels)
    assert len(notes) == 1


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), None])
@pytest.mark.parametrize("swap", [False, True])
def test_without_an_affine_of_its_own_a_file_lies_voxel_by_voxel(affine, swap: bool):
    voxels = noise(*SHAPE)
    real, blank = volume(voxels, OBLIQUE, "real.nii"), volume(voxels, affine, "blank.nii")
    image, other = (blank, real) if swap else (real, blank)
    back, notes = aligned(Grid.of(image), other)
    assert back is voxels
    assert notes == (
        f"{other.name} is taken to lie on {image.name} voxel by voxel: the affine of blank.nii "
        "does not say where",
    )


@pytest.mark.parametrize("kind", ["frame01", "frame04", "frame01_gt", "frame04_gt", "4d_gt"])
def test_each_file_of_a_patient_is_brought_to_the_images_orientation(tmp_path: Path, kind: str):
    folder = tmp_path / "patient007"
    make_patient(folder, labels="all" if kind == "4d_gt" else "frames")
    before = read_patient(folder)
    path = folder / f"patient007_{kind}.nii.gz"
    stored = nib.Nifti1Image.from_filename(path)
    voxels, affine = turned(np.asarray(stored.dataobj).T, stored.affine, np.array(TURNS[4]))
    nib.save(nib.Nifti1Image(voxels.T, affine), path)
    after = read_patient(folder)
    assert np.array_equal(after.frames, before.frames)
    assert all(np.array_equal(after.labels[i], before.labels[i]) for i in before.labels)
    assert after.notes == (
        f"{path.name} is stored with x to right, y to back, z to head; "
        "it is brought to the image's x to left, y to back, z to head",
    )
    nib.save(nib.Nifti1Image(voxels.T, shifted(affine, 89, 0, 0)), path)
    assert f"patient007: {path.name} does not lie on patient007_4d.nii.gz" in problems_of(folder)


def test_a_pair_is_brought_to_eds_orientation(tmp_path: Path):
    ed, es = noise(2, *SHAPE)
    nib.save(nib.Nifti1Image(ed.T, OBLIQUE), tmp_path / "ed.nii")
    stored, affine = turned(es, OBLIQUE, np.array(TURNS[30]))
    nib.save(nib.Nifti1Image(stored.T, affine), tmp_path / "es.nii")
    patient = read_pair(tmp_path / "ed.nii", tmp_path / "es.nii", 300.0)
    assert np.array_equal(patient.frames, [ed, es])
    assert np.allclose(patient.affine, OBLIQUE)
    assert patient.spacing == pytest.approx((10, 1.5, 1.25))
    assert len(patient.notes) == 1


@pytest.mark.parametrize(("pixdim", "problem"), [((1.4, 1.5, 10), True), ((1, 1, 1), False)])
def test_damaged_sizes_of_a_frame_file(tmp_path: Path, pixdim, problem: bool):
    """Sizes of 1 x 1 x 1 are those of a header that nobody has filled in."""
    folder = tmp_path / "patient007"
    make_patient(folder, suffix=".nii")
    sizes = np.array(pixdim, "<f4").tobytes()
    edit_header(folder / "patient007_frame01_gt.nii", PIXDIM + 4, sizes)
    if problem:
        assert "patient007_frame01_gt.nii does not lie on" in problems_of(folder)
    else:
        assert read_patient(folder).notes == ()
