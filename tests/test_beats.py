"""Denser cines and whole beats, by sample.py as its users call it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from untrained import write_untrained

import sample
from mstg_jax.data.pipeline import data_root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with an untrained run, and the phantom of 24 frames."""
    folder = tmp_path_factory.mktemp("beats")
    config = write_untrained(folder)
    data_root(config.data)
    return folder


@pytest.fixture
def call(place: Path, commands_in, capsys, tmp_path):
    commands_in(place)

    def run(*args: object, code: int = 0) -> str:
        argv = ["--run", "run", "--out", str(tmp_path / "out"), *map(str, args)]
        assert sample.main(argv) == code
        return capsys.readouterr()[bool(code)]

    return run


def cycle_of(place: Path) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_filename(next(place.rglob("*_4d.nii.gz")))


def write_cine(place: Path, path: Path, dtype: str, frames: slice = slice(None)) -> np.ndarray:
    """The phantom's first cine, stored with a slope and intercept; its stored values."""
    real = np.asarray(cycle_of(place).dataobj)[..., frames]
    image = nib.Nifti1Image(real, np.eye(4))
    image.header.set_zooms((1.5, 1.5, 8.0, 40.0))
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_data_dtype(dtype)
    if dtype != "float32":
        image.header.set_slope_inter(0.37, -11.0)
    nib.save(image, path)
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj.get_unscaled())


def only(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"*/{name}")
    return found


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_a_denser_cine_keeps_its_frames_bit_for_bit(place, call, tmp_path: Path, dtype: str):
    stored = write_cine(place, tmp_path / "cine.nii.gz", dtype)
    said = call("--cine", tmp_path / "cine.nii.gz", "--factor", 3)
    count = stored.shape[3]
    assert f"cine: {count} frames to {3 * count}, with the end of the cycle" in said
    image = nib.Nifti1Image.from_filename(only(tmp_path / "out", "cine.nii.gz"))
    assert image.shape == (*stored.shape[:3], 3 * count)
    assert image.get_data_dtype() == np.dtype(dtype)
    assert image.header.get_zooms()[:3] == (1.5, 1.5, 8.0)
    assert image.header.get_zooms()[3] == pytest.approx(40 / 3)
    assert image.header.get_xyzt_units() == ("mm", "msec")
    made = np.asarray(image.dataobj.get_unscaled())
    assert np.array_equal(made[..., ::3], stored)
    if dtype != "float32":
        assert (image.dataobj.slope, image.dataobj.inter) == (np.float32(0.37), -11.0)
    real = np.asarray(image.dataobj)
    between = np.abs(real[..., 1] - real[..., 0]).mean()
    assert 0 < between < 3 * np.abs(real[..., 3] - real[..., 0]).mean() + 1
    with Image.open(only(tmp_path / "out", "animation.gif")) as picture:
        assert picture.n_frames > count


@pytest.mark.parametrize(("frames", "flags"), [(slice(0, 12), ()), (slice(None), ("--open",))])
def test_the_end_of_a_cine_is_left_open(place, call, tmp_path: Path, frames, flags):
    """Where it is missing, or as it is asked."""
    stored = write_cine(place, tmp_path / "cine.nii.gz", "int16", frames)
    said = call("--cine", tmp_path / "cine.nii.gz", *flags)
    count = stored.shape[3]
    assert f"{count} frames to {2 * count - 1}, the gap at its end left open" in said
    image = nib.Nifti1Image.from_filename(only(tmp_path / "out", "cine.nii.gz"))
    assert image.shape[3] == 2 * count - 1
    assert np.array_equal(np.asarray(image.dataobj.get_unscaled())[..., ::2], stored)


def test_a_beat_of_ed_and_es(place, call, tmp_path: Path):
    """As many frames as the patient has, ED and ES at their own times and as they are."""
    patients = sorted(p.name for p in place.glob("phantom-*/testing/*"))
    call("--cycle", "--patient", patients[0])
    image = nib.Nifti1Image.from_filename(tmp_path / "out" / patients[0] / "cycle.nii.gz")
    folder = next(place.glob(f"phantom-*/testing/{patients[0]}"))
    real = np.asarray(nib.Nifti1Image.from_filename(folder / f"{patients[0]}_4d.nii.gz").dataobj)
    info = dict(
        line.split(": ") for line in (folder / "Info.cfg").read_text(encoding="utf-8").splitlines()
    )
    ed, es = int(info["ED"]) - 1, int(info["ES"]) - 1
    made = np.asarray(image.dataobj)
    assert made.shape == real.shape
    np.testing.assert_allclose(made[..., 0], real[..., ed], atol=1e-3)
    np.testing.assert_allclose(made[..., es - ed], real[..., es], atol=1e-3)
    assert np.abs(made[..., -1] - made[..., 0]).mean() < np.abs(made[..., es] - made[..., 0]).mean()


@pytest.mark.parametrize(("flags", "places"), [((), [0, 4, 8]), (("--cycle",), [0, 3, 6])])
def test_key_frames_in_the_order_of_time(place, call, tmp_path: Path, flags, places):
    real = np.asarray(cycle_of(place).dataobj)
    for i, frame in enumerate((0, 4, 8)):
        image = nib.Nifti1Image(real[..., frame].astype(np.float32), np.eye(4))
        image.header.set_zooms((1.5, 1.5, 8.0))
        nib.save(image, tmp_path / f"key{i}.nii.gz")
    keys = [tmp_path / f"key{i}.nii.gz" for i in range(3)]
    said = call("--key", *keys, "--frames", 9, *flags)
    assert f"9 frames, key frames at {', '.join(map(str, places))}" in said
    made = np.asarray(nib.Nifti1Image.from_filename(only(tmp_path / "out", "cycle.nii.gz")).dataobj)
    assert made.shape[3] == 9
    for place_of, frame in zip(places, (0, 4, 8), strict=True):
        np.testing.assert_allclose(made[..., place_of], real[..., frame], atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cine", "nowhere.nii.gz"), "nowhere.nii.gz: no such file; a 4D NIfTI file is needed"),
        (("--cine", "a.nii", "--factor", "1"), "--factor is 1; with 2 or more"),
        (("--cine", "a.nii", "--patient", "p1"), "--cine and --patient each name what to sample"),
        (("--cine", "a.nii", "--cycle"), "--cine takes --factor, and neither"),
        (("--factor", "3"), "--factor and --open are for --cine"),
        (("--key", "a.nii"), "--key names one file"),
        (("--cycle", "--flow"), "--labels and --flow are for the frames from ED to ES"),
        (("--refine", "-1"), "--refine is -1"),
        (("--refine", "3"), "--refine and --symmetries are for method between; run is voxelmorph"),
        (("--cycle", "--frames", "2"), "--frames is 2, but 2 key frames"),
    ],
)
def test_what_cannot_be_is_one_line(call, flags, message: str):
    assert message in call(*flags, code=1)
