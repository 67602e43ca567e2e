"""Tiny patients in the ACDC layout for the tests."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mstg_jax.config import DataConfig
from mstg_jax.data.acdc import DataError, read_patient

ZOOMS = (1.25, 1.5, 10.0)
"""(x, y, z) voxel sizes of `make_patient`, mm."""
SIZE = (8, 16, 16)


def save(path: Path, voxels: np.ndarray, zooms: tuple[float, ...]) -> None:
    """Write voxels given as ([t] d h w) with zooms (x, y, z[, t]) and, like ACDC, a unit affine."""
    image = nib.Nifti1Image(voxels.T, np.diag([-1.0, -1, 1, 1]))
    image.header.set_zooms(zooms)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def make_patient(
    folder: Path,
    *,
    shape: tuple[int, int, int, int] = (5, 3, 9, 8),
    ed: int = 1,
    es: int = 4,
    spacing: tuple[float, ...] = ZOOMS[::-1],
    time_step: float = 0.04,
    dtype: type = np.int16,
    labels: str = "frames",
    suffix: str = ".nii.gz",
    seed: int = 0,
) -> np.ndarray:
    """Write a patient of shape (t d h w) and return its frames; ed and es count from 1.

    A bright ball contracts in noise; labels: "frames" (ED and ES), "all" (a 4D file) or "none".
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    t, d, h, w = shape
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (d, h, w)), indexing="ij")
    distance = np.sqrt(x**2 + y**2 + (0.3 * z) ** 2)
    radius = 0.65 + 0.2 * np.cos(2 * np.pi * (np.arange(t) - ed + 1) / t)[:, None, None, None]
    truth = sum((distance < radius * share).astype(np.uint8) for share in (1.0, 0.7, 0.4))
    frames = (60 * truth + rng.integers(0, 20, shape)).astype(dtype)
    zooms = spacing[::-1]
    name = folder.name
    save(folder / f"{name}_4d{suffix}", frames, (*zooms, time_step))
    for number in (ed, es):
        save(folder / f"{name}_frame{number:02d}{suffix}", frames[number - 1], zooms)
        if labels == "frames":
            save(folder / f"{name}_frame{number:02d}_gt{suffix}", truth[number - 1], zooms)
    if labels == "all":
        save(folder / f"{name}_4d_gt{suffix}", truth, (*zooms, time_step))
    (folder / "Info.cfg").write_text(
        f"ED: {ed}\nES: {es}\nGroup: NOR\nNbFrame: {t}\n", encoding="utf-8"
    )
    return frames


def set_info(folder: Path, **values: object) -> None:
    """Replace keys of Info.cfg; None removes one."""
    path = folder / "Info.cfg"
    pairs = dict(line.split(": ") for line in path.read_text(encoding="utf-8").splitlines())
    pairs |= {key: str(value) for key, value in values.items()}
    path.write_text(
        "".join(f"{k}: {v}\n" for k, v in pairs.items() if v != "None"), encoding="utf-8"
    )


def edit_header(path: Path, offset: int, content: bytes) -> None:
    """Overwrite bytes of an uncompressed NIfTI file."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(bytes(data))


def problems_of(folder: Path) -> str:
    """What `read_patient` has against the folder; each line must name the patient."""
    with pytest.raises(DataError) as caught:
        read_patient(folder)
    assert all(line.startswith(f"{folder.name}: ") for line in str(caught.value).splitlines())
    return str(caught.value)


def config_of(tmp_path: Path, root: Path | None = None, **values) -> DataConfig:
    """Settings for a root (by default tmp_path/acdc) with a cache and a grid for tests."""
    return DataConfig(
        root=str(root or tmp_path / "acdc"), cache=str(tmp_path / "cache"), size=SIZE, **values
    )


def write(root: Path, *seeds: int, **values) -> None:
    """Write patient001, patient002, ... from these seeds."""
    for number, seed in enumerate(seeds, 1):
        make_patient(root / f"patient{number:03d}", seed=seed, **values)
