"""Every kind of file that is read, and what is said of those that are not."""

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from acdc_files import ZOOMS, config_of, edit_header, make_patient, problems_of, save, write

from mstg_jax.data.acdc import read_patient
from mstg_jax.data.folder import patient_files
from mstg_jax.data.pipeline import load_examples
from mstg_jax.data.verify import main

NAME = "patient007_4d"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "patient007"


def stored(folder: Path) -> nib.Nifti1Image:
    """The sequence, in memory; its file is removed."""
    path = folder / f"{NAME}.nii.gz"
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    return image


def upper_case(folder: Path, image: nib.Nifti1Image) -> None:
    (folder / f"{NAME}.NII.GZ").write_bytes(gzip.compress(image.to_bytes()))


def nifti2(folder: Path, image: nib.Nifti1Image) -> None:
    nib.save(nib.Nifti2Image.from_image(image), folder / f"{NAME}.nii.gz")


def big_endian(folder: Path, image: nib.Nifti1Image) -> None:
    header = image.header.as_byteswapped(">")
    nib.save(nib.Nifti1Image(image.dataobj, image.affine, header), folder / f"{NAME}.nii")


def pair(folder: Path, image: nib.Nifti1Image) -> None:
    nib.save(nib.Nifti1Pair.from_image(image), folder / f"{NAME}.img")


def pair_of_nifti2(folder: Path, image: nib.Nifti1Image) -> None:
    nib.save(nib.Nifti2Pair.from_image(image), folder / f"{NAME}.img")


def compressed_pair(folder: Path, image: nib.Nifti1Image) -> None:
    pair(folder, image)
    for end in "hdr", "img":
        path = folder / f"{NAME}.{end}"
        (folder / f"{NAME}.{end.upper()}.GZ").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def gzip_named_nii(folder: Path, image: nib.Nifti1Image) -> None:
    (folder / f"{NAME}.nii").write_bytes(gzip.compress(image.to_bytes()))


def plain_named_gz(folder: Path, image: nib.Nifti1Image) -> None:
    (folder / f"{NAME}.nii.gz").write_bytes(image.to_bytes())


def trailing_zeros(folder: Path, image: nib.Nifti1Image) -> None:
    (folder / f"{NAME}.nii.gz").write_bytes(gzip.compress(image.to_bytes()) + bytes(512))


def several_members(folder: Path, image: nib.Nifti1Image) -> None:
    data = image.to_bytes()
    members = gzip.compress(data[:700]) + bytes(3) + gzip.compress(data[700:])
    (folder / f"{NAME}.nii.gz").write_bytes(members)


def extension(folder: Path, image: nib.Nifti1Image) -> None:
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"hello" * 20))
    nib.save(image, folder / f"{NAME}.nii.gz")


@pytest.mark.parametrize(
    "form",
    [
        upper_case,
        nifti2,
        big_endian,
        pair,
        pair_of_nifti2,
        compressed_pair,
        gzip_named_nii,
        plain_named_gz,
        trailing_zeros,
        several_members,
        extension,
    ],
)
def test_forms_that_are_read(folder: Path, form: Callable[[Path, nib.Nifti1Image], None]):
    make_patient(folder)
    truth, image = read_patient(folder), stored(folder)
    form(folder, image)
    patient = read_patient(folder)
    assert patient.digest == truth.digest
    assert patient.notes == ()
    assert patient.spacing == truth.spacing
    assert patient.frame_time == pytest.approx(0.04)
    assert np.array_equal(patient.affine, truth.affine)
    assert {p.name for p in patient_files(folder)} == {p.name for p in folder.iterdir()}


def test_bytes_after_the_image_are_a_note(folder: Path):
    make_patient(folder)
    truth, image = read_patient(folder), stored(folder)
    path, data = folder / f"{NAME}.nii.gz", image.to_bytes()
    for content, note in (
        (gzip.compress(data) + b"garbage!", "8 bytes after its compressed data are left out"),
        (gzip.compress(data + bytes(9)), "9 bytes follow its voxels"),
    ):
        path.write_bytes(content)
        patient = read_patient(folder)
        assert patient.digest == truth.digest
        assert patient.notes == (f"{NAME}.nii.gz: {note}",)


@pytest.mark.parametrize(("shape", "step"), [((1, 5), 0.05), ((5, 1), 0.04), ((5, 1, 1), 0.04)])
def test_axes_of_one_voxel_are_left_out(folder: Path, shape: tuple[int, ...], step: float):
    make_patient(folder)
    truth, image = read_patient(folder), stored(folder)
    voxels = np.asarray(image.dataobj).reshape(8, 9, 3, *shape)
    again = nib.Nifti1Image(voxels, image.affine, image.header)
    again.header["pixdim"][1:6] = *ZOOMS, 0.04, 0.05
    nib.save(again, folder / f"{NAME}.nii.gz")
    patient = read_patient(folder)
    assert patient.digest == truth.digest
    assert patient.frame_time == pytest.approx(step)
    note = f"{NAME}.nii.gz has shape (8, 9, 3, 1, 5): its axis 5 is taken for time"
    assert patient.notes == ((note,) if shape == (1, 5) else ())
    again.header.set_intent("vector")
    nib.save(again, folder / f"{NAME}.nii.gz")
    if shape == (1, 5):
        assert "has shape (8, 9, 3, 1, 5); it must be (x, y, z, t)" in problems_of(folder)


def test_labels_of_one_frame_may_have_a_fourth_axis(folder: Path):
    make_patient(folder)
    truth = read_patient(folder)
    save(folder / "patient007_frame01_gt.nii.gz", truth.labels[0][None], (*ZOOMS, 1))
    assert np.array_equal(read_patient(folder).labels[0], truth.labels[0])


def with_type(image: nib.Nifti1Image, dtype) -> bytes:
    voxels = np.zeros(image.shape, dtype)
    return nib.Nifti1Image(voxels, image.affine).to_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda i: gzip.compress(gzip.compress(i.to_bytes())), "it is compressed twice; gunzip"),
        (lambda i: bz2.compress(i.to_bytes()), "it is compressed by bzip2; bunzip2 it"),
        (lambda i: b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer; `git lfs"),
        (lambda i: b"/annex/objects/SHA256", "a git-annex pointer; `git annex get`"),
        (lambda i: bytes(128) + b"DICM" + bytes(400), "a DICOM file; convert the series with dcm2"),
        (lambda i: b"<!DOCTYPE html>", "a page of HTML or XML"),
        (lambda i: i.to_bytes()[:344] + bytes(4), "it is Analyze 7.5, which does not say where"),
        (lambda i: i.to_bytes()[:344] + b"ni1\0", "its header belongs to a pair of files; name it"),
        (lambda i: with_type(i, np.complex64), "its voxels are complex64; save their magnitude"),
        (lambda i: with_type(i, [(c, "u1") for c in "RGB"]), "its voxels are colours; save one"),
        (lambda i: b"", "it holds 0 bytes, which begin with b''"),
    ],
)
def test_other_files_are_named_for_what_they_are(folder: Path, content, message: str):
    make_patient(folder)
    (folder / f"{NAME}.nii.gz").write_bytes(content(stored(folder)))
    found = problems_of(folder)
    assert f"patient007: {NAME}.nii.gz cannot be read (" in found
    assert message in found


@pytest.mark.parametrize("offset", [0, 351])
def test_voxels_within_the_header_are_refused(folder: Path, offset: int):
    make_patient(folder, suffix=".nii")
    edit_header(folder / f"{NAME}.nii", 108, np.array(offset, "<f4").tobytes())
    assert f"its vox_offset is {offset}, but must be 352 or more" in problems_of(folder)


@pytest.mark.parametrize(("gone", "left"), [("img", "hdr")])
def test_half_a_pair_is_refused(folder: Path, gone: str, left: str):
    make_patient(folder)
    pair(folder, stored(folder))
    (folder / f"{NAME}.{gone}").unlink()
    assert f"{NAME}.{left} cannot be read (there is no {NAME}.{gone} beside" in problems_of(folder)


def test_a_broken_link_is_not_a_missing_file(folder: Path):
    make_patient(folder)
    stored(folder)
    (folder / f"{NAME}.nii.gz").symlink_to("../annex/objects/none")
    assert f"{NAME}.nii.gz cannot be read ([Errno 2] No such file" in problems_of(folder)


def test_the_cache_follows_the_voxels_of_a_pair(tmp_path: Path):
    write(tmp_path / "acdc", 1, 2)
    folder = tmp_path / "acdc" / "patient001"
    image = nib.Nifti1Image.from_filename(folder / "patient001_4d.nii.gz")
    nib.save(nib.Nifti1Pair.from_image(image), folder / "patient001_4d.img")
    (folder / "patient001_4d.nii.gz").unlink()
    before = load_examples(config_of(tmp_path))[0][0]
    path = folder / "patient001_4d.img"
    path.write_bytes(path.read_bytes()[::-1])
    assert load_examples(config_of(tmp_path))[0][0].digest != before.digest


@pytest.mark.parametrize("name", ["patient é 心", "patient[1]", os.fsdecode(b"patient \xe9")])
def test_folders_of_any_name(tmp_path: Path, capsys, name: str):
    """The last one is Latin-1, as on disks of old."""
    try:
        make_patient(tmp_path / "acdc" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    make_patient(tmp_path / "acdc" / "patient", seed=1)
    assert main(["verify", str(tmp_path / "acdc")]) == 0
    assert "2 of 2 patients are fine" in capsys.readouterr().out
    training, validation = load_examples(config_of(tmp_path))
    assert {e.id for e in training + validation} == {name, "patient"}


def test_the_home_folder_is_written_as_a_tilde(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "acdc", 1, 2)
    config = config_of(tmp_path, Path("~/acdc"))
    assert load_examples(config)[0][0].folder == tmp_path / "acdc" / "patient001"
    assert main(["verify", "~nobody-of-this-name"]) == 1
