import json
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstg_jax.data import layout, phantom
from mstg_jax.data.phantom import GROUPS, write_phantom

SIZE = (6, 64, 64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", (10, 5), SIZE)


def load(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


@lru_cache
def voxels(path: Path) -> np.ndarray:
    return np.asarray(load(path).dataobj).T


def info(folder: Path) -> dict[str, str]:
    return dict(
        line.split(": ") for line in (folder / "Info.cfg").read_text(encoding="utf-8").splitlines()
    )


def truth(folder: Path) -> tuple[np.ndarray, int, int]:
    cfg = info(folder)
    return voxels(folder / f"{folder.name}_4d_gt.nii.gz"), int(cfg["ED"]) - 1, int(cfg["ES"]) - 1


def folders(root: Path) -> list[Path]:
    return sorted(root.glob("t*ing/patient*"))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout_is_acdc(root: Path) -> None:
    assert [p.name for p in sorted((root / "testing").iterdir())] == [
        f"patient{number:03d}" for number in range(11, 16)
    ]
    for folder in folders(root):
        cfg = info(folder)
        assert list(cfg) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        frames = int(cfg["NbFrame"])
        assert 20 <= frames <= 30
        assert 1 <= int(cfg["ED"]) < int(cfg["ES"]) <= frames
        cine = load(folder / f"{folder.name}_4d.nii.gz")
        assert cine.shape == (*SIZE[::-1], frames)
        assert cine.get_data_dtype() == np.int16
        assert 200 < voxels(folder / f"{folder.name}_4d.nii.gz").max() < 1700
        assert voxels(folder / f"{folder.name}_4d.nii.gz").min() >= 0
        zooms = tuple(map(float, cine.header.get_zooms()))
        in_plane, also, between = zooms[:3]
        assert in_plane == also < 3 < between
        # As in ACDC the affine is a unit matrix but for signs, whatever the voxel sizes.
        np.testing.assert_array_equal(cine.affine, np.diag([-1, -1, 1, 1]))
        assert (cine.header["qform_code"], cine.header["sform_code"]) == (0, 2)
        labels = load(folder / f"{folder.name}_4d_gt.nii.gz")
        assert labels.shape == cine.shape
        assert labels.get_data_dtype() == np.uint8
        assert tuple(labels.header.get_zooms()) == zooms
        for key in ("ED", "ES"):
            frame = load(folder / f"{folder.name}_frame{int(cfg[key]):02d}.nii.gz")
            assert frame.shape == cine.shape[:3]
            assert tuple(frame.header.get_zooms()) == zooms[:3]


def test_ed_is_not_always_the_first_frame(root: Path) -> None:
    eds = [truth(folder)[1] for folder in folders(root)]
    assert 0 < sum(ed > 0 for ed in eds) < len(eds) / 2


def test_frame_files_repeat_the_cine(root: Path) -> None:
    for folder in folders(root):
        stem = f"{folder}/{folder.name}"
        _, *times = truth(folder)
        for suffix in ("", "_gt"):
            cine = voxels(Path(f"{stem}_4d{suffix}.nii.gz"))
            for t in times:
                frame = voxels(Path(f"{stem}_frame{t + 1:02d}{suffix}.nii.gz"))
                np.testing.assert_array_equal(frame, cine[t])


def test_ejection_fractions_are_those_of_the_group(root: Path) -> None:
    for folder in folders(root):
        labels, ed, es = truth(folder)
        group = GROUPS[info(folder)["Group"]]
        for label, (low, high) in ((3, group.lv_ef), (1, group.rv_ef)):
            ef = 1 - (labels[es] == label).sum() / (labels[ed] == label).sum()
            assert low - 0.03 < ef < high + 0.03, (folder.name, label, ef)


def test_groups_differ_as_they_should(root: Path) -> None:
    """At ED, in mm^3: DCM's cavity, HCM's wall and RV's right ventricle are the largest."""
    volume: dict[str, np.ndarray] = {name: np.zeros(4) for name in GROUPS}
    for folder in folders(root):
        labels, ed, _ = truth(folder)
        zooms = load(folder / f"{folder.name}_4d.nii.gz").header.get_zooms()
        volume[info(folder)["Group"]] += np.bincount(labels[ed].ravel()) * np.prod(zooms)
    assert max(volume, key=lambda name: volume[name][1]) == "RV"
    assert max(volume, key=lambda name: volume[name][2]) == "HCM"
    assert max(volume, key=lambda name: volume[name][3]) == "DCM"


def test_cavity_is_largest_at_ed_and_smallest_at_es_and_monotone_between(root: Path) -> None:
    for folder in folders(root):
        labels, ed, es = truth(folder)
        cavity = (labels == 3).sum((1, 2, 3))
        assert cavity.argmax() == ed
        assert cavity.argmin() == es
        assert (np.diff(cavity[ed : es + 1]) < 0).all()


def wall_thickness(labels: np.ndarray, sectors: int = 12) -> np.ndarray:
    """Area of the wall over the cavity's sectors, per radian, in the slice above the middle."""
    middle = labels[len(labels) // 2 - 1]
    y, x = np.nonzero(middle == 3)
    rows, columns = np.nonzero(middle == 2)
    angle = np.arctan2(rows - y.mean(), columns - x.mean())
    radius = np.hypot(rows - y.mean(), columns - x.mean())
    sector = ((angle + np.pi) / (2 * np.pi) * sectors).astype(int) % sectors
    # Voxels of a sector of a ring number radius * angle * thickness.
    return np.array([(1 / radius[sector == s]).sum() for s in range(sectors)])


def test_normal_wall_thickens_and_the_infarct_does_not(root: Path) -> None:
    gain: dict[str, list[np.ndarray]] = {name: [] for name in GROUPS}
    for folder in folders(root):
        labels, ed, es = truth(folder)
        gain[info(folder)["Group"]].append(wall_thickness(labels[es]) / wall_thickness(labels[ed]))
    normal = min(g.min() for g in gain["NOR"])
    assert normal > 1.15
    for infarct in gain["MINF"]:
        assert infarct.min() < 1.12 < normal
        assert infarct.max() > 1.25


def test_images_show_the_anatomy(root: Path) -> None:
    """Blood is bright, muscle dark; what changes over the cycle is motion, an order above noise."""
    for folder in folders(root):
        labels, ed, es = truth(folder)
        cine = voxels(folder / f"{folder.name}_4d.nii.gz").astype(np.float32)
        for t in (ed, es):
            blood, muscle = (np.median(cine[t][labels[t] == label]) for label in (3, 2))
            assert blood > 2 * muscle
        scale = np.ptp(cine[ed])
        corner = np.abs(np.diff(cine[:, :, :6, -6:], axis=0)).mean() / scale
        assert corner < 0.03
        assert np.sqrt(((cine[es] - cine[ed]) ** 2).mean()) / scale > 0.05


def test_same_seed_same_bytes_and_patients_do_not_depend_on_their_number(tmp_path: Path) -> None:
    size = (4, 32, 32)
    first = files(write_phantom(tmp_path / "a", (1, 1), size, seed=3))
    assert first == files(write_phantom(tmp_path / "b", (1, 1), size, seed=3))
    more = files(write_phantom(tmp_path / "c", (2, 0), size, seed=3))
    other = files(write_phantom(tmp_path / "d", (1, 0), size, seed=4))
    cine = "training/patient001/patient001_4d.nii.gz"
    assert more[cine] == first[cine] != other[cine]


def test_second_call_returns_at_once_and_repairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, size = tmp_path / "deep" / "phantom", (4, 32, 32)
    before = files(write_phantom(root, (1, 1), size))
    with monkeypatch.context() as patch:
        patch.delattr(phantom, "_write_patient")
        assert write_phantom(root, (1, 1), size) == root
    (root / "testing/patient002/Info.cfg").unlink()
    assert files(write_phantom(root, (1, 1), size)) == before
    write_phantom(root, (1, 0), size)
    assert json.loads((root / phantom.MARKER).read_text(encoding="utf-8"))["patients"] == [1, 0]
    assert not (root / "testing").exists()
    assert list(root.parent.iterdir()) == [root]


def test_interrupted_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layout, "_save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "phantom", (1, 0), (4, 32, 32))
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"phantom\.json"):
        write_phantom(tmp_path, (1, 0))
    assert files(tmp_path) == {"thesis.tex": b"precious"}


@pytest.mark.parametrize(
    "arguments", [((0, 0), (4, 32, 32)), ((-1, 2), (4, 32, 32)), ((1, 0), (3, 32, 32))]
)
def test_senseless_settings_are_refused(tmp_path: Path, arguments: tuple) -> None:
    with pytest.raises(ValueError, match="phantom: "):
        write_phantom(tmp_path / "phantom", *arguments)


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(20, 30), systole=st.integers(7, 14))
def test_volume_curve_is_a_heart_beat(frames: int, systole: int) -> None:
    curve = phantom._volume_curve(frames, systole)
    assert curve[0] == 0
    assert curve[systole] == curve.max() == 1
    assert (np.diff(curve[: systole + 1]) > 0).all()
    assert (np.diff(curve[systole:]) < 0).all()
    assert 0 < curve[-1] < 0.2  # flows on into the next beat


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), name=st.sampled_from(sorted(GROUPS)))
def test_contours_stay_nested_and_the_wall_keeps_its_area(seed: int, name: str) -> None:
    anatomy = phantom._draw_anatomy(np.random.default_rng(seed), GROUPS[name], (8, 64, 64))
    for phase in (0.0, 0.5, 1.0):
        kept = 1 - phase * anatomy.rv_closing
        endo, epi, free = phantom._contract(anatomy.rest[0], phase * anatomy.shortening, kept)
        assert (endo >= 0).all()
        assert (epi >= endo).all()
        assert (free >= epi).all()
        assert free.max() < anatomy.reach
        area = (epi**2 - endo**2).sum() / (anatomy.rest[0, 1] ** 2 - anatomy.rest[0, 0] ** 2).sum()
        assert 0.999 < area < 1.25
