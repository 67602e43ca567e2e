import dataclasses
import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from acdc_files import SIZE, config_of, make_patient, set_info, write
from hypothesis import given, settings
from hypothesis import strategies as st

from mstg_jax.config import DataConfig, UserError
from mstg_jax.data import pipeline
from mstg_jax.data.acdc import DataError, read_patient
from mstg_jax.data.cache import staged
from mstg_jax.data.pipeline import Example, load_examples


def ids(examples: list[Example]) -> list[str]:
    return [e.id for e in examples]


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "volumes").iterdir())


def test_an_example_is_the_patients_sequence_on_the_models_grid(tmp_path: Path):
    write(tmp_path / "acdc", 1, 2, ed=4, es=2)
    training, _ = load_examples(config_of(tmp_path))
    example, patient = training[0], read_patient(training[0].folder)
    assert np.array_equal(example.frames, example.geometry.forward(patient.frames[[3, 4, 0, 1]]))
    assert np.array_equal(example.gammas, np.float32([0, 1 / 3, 2 / 3, 1]))
    assert set(example.labels) == {0, 3}
    assert np.array_equal(example.cycle, example.geometry.forward(patient.frames))
    assert example.order == (3, 4, 0, 1)
    assert set(example.cycle_labels) == {1, 3}
    assert example.span == (3 / 5, 3)
    assert example.resampled == example.geometry
    expected = example.geometry.forward_labels(patient.labels[patient.es])
    assert np.array_equal(example.labels[3], expected)
    assert np.array_equal(example.fov, example.geometry.fov())
    assert not example.frames[:, ~example.fov].any()
    assert example.digest == patient.digest


def test_the_cache_is_memory_mapped_and_spares_the_files(tmp_path: Path, monkeypatch):
    write(tmp_path / "acdc", 1, 2)
    first = load_examples(config_of(tmp_path))
    monkeypatch.setattr(pipeline, "read_patient", lambda folder: pytest.fail("decoded again"))
    second = load_examples(config_of(tmp_path))
    for a, b in zip(first[0] + first[1], second[0] + second[1], strict=True):
        assert isinstance(a.frames, np.memmap)
        assert not a.frames.flags.writeable
        assert np.array_equal(a.frames, b.frames)
        assert a.geometry == b.geometry
        assert a.labels.keys() == b.labels.keys()


@pytest.mark.parametrize("change", ["spacing", "size", "crop", "file", "info"])
def test_the_cache_follows_content_and_settings(tmp_path: Path, change: str):
    write(tmp_path / "acdc", 1, 2, labels="all")
    load_examples(config_of(tmp_path))
    config = config_of(tmp_path)
    folder = tmp_path / "acdc" / "patient001"
    if change == "file":
        shutil.rmtree(folder)
        make_patient(folder, seed=9)
    elif change == "info":
        set_info(folder, ES=3)
    else:
        values = {"spacing": (5.0, 1.5, 1.5), "size": (8, 16, 32), "crop": "heart"}
        config = dataclasses.replace(config, **{change: values[change]})
    example = load_examples(config)[0][0]
    patient = read_patient(folder)
    geometry = pipeline.Geometry.fit(patient, config.spacing, config.size, config.crop)
    assert example.geometry == geometry
    assert np.array_equal(example.frames, geometry.forward(patient.frames[patient.sequence]))


@pytest.mark.parametrize("damage", ["no meta", "bad meta", "no volumes", "short", "empty"])
def test_a_damaged_cache_entry_is_rebuilt(tmp_path: Path, damage: str):
    write(tmp_path / "acdc", 1, 2)
    before = [np.array(e.frames) for part in load_examples(config_of(tmp_path)) for e in part]
    for entry in entries(tmp_path):
        meta, volumes = entry / "meta.json", entry / "volumes.npy"
        if damage == "no meta":
            meta.unlink()
        elif damage == "bad meta":
            meta.write_text("{}", encoding="utf-8")
        elif damage == "no volumes":
            volumes.unlink()
        else:
            volumes.write_bytes(volumes.read_bytes()[: -100 if damage == "short" else 0])
    after = [e.frames for part in load_examples(config_of(tmp_path)) for e in part]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_an_interrupted_write_leaves_no_entry(tmp_path: Path, monkeypatch):
    write(tmp_path / "acdc", 1, 2)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.np, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_examples(config_of(tmp_path))
    assert entries(tmp_path) == []


@pytest.mark.parametrize("phantom", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch, phantom, full):
    """Because the disk is full, or the path is that of a file."""
    write(tmp_path / "acdc", 1, 2)
    config = config_of(tmp_path)
    config = dataclasses.replace(config, root=None if phantom else config.root)
    if full:

        def no_room(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "mkdir", no_room)
    else:
        Path(config.cache).touch()
    with pytest.raises(UserError, match=r"--data\.cache .*/cache cannot be written: \w+"):
        load_examples(config)


def test_two_processes_may_write_the_same_entry(tmp_path: Path):
    final = tmp_path / "entry"
    with staged(final) as slow:
        (slow / "who").write_text("slow", encoding="utf-8")
        with staged(final) as fast:
            (fast / "who").write_text("fast", encoding="utf-8")
    assert (final / "who").read_text(encoding="utf-8") == "fast"
    assert list(tmp_path.iterdir()) == [final]


def test_the_testing_part_is_the_validation_set(tmp_path: Path):
    write(tmp_path / "acdc" / "training", 1, 2, 3)
    write(tmp_path / "acdc" / "testing", 4, 5)
    training, validation = load_examples(config_of(tmp_path, validation=0.9))
    assert (len(training), len(validation)) == (3, 2)
    assert {e.folder.parent.name for e in validation} == {"testing"}


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.2, 1), (0.4, 2), (1.0, 4)])
def test_the_last_patients_of_a_flat_folder_are_held_out(tmp_path: Path, share, count):
    write(tmp_path / "acdc", *range(5))
    training, validation = load_examples(config_of(tmp_path, validation=share))
    everyone = [f"patient{i:03d}" for i in range(1, 6)]
    assert ids(training) == everyone[: 5 - count]
    assert ids(validation) == everyone[5 - count :]


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=9),
    st.lists(st.integers(0, 4), max_size=4),
    st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_no_image_stands_on_both_sides(training: list[int], testing: list[int], share: float):
    def examples_of(part: str, images: list[int]) -> list[Example]:
        return [example_of(f"{part}{i}", str(image)) for i, image in enumerate(images)]

    parts = examples_of("training", training), examples_of("testing", testing) or None
    try:
        left, right = pipeline._split(*parts, share, Path("root"))
    except DataError:
        assert set(training) <= set(testing) or max(map(training.count, training)) > 1
        return
    assert left
    assert right
    assert not {e.digest for e in left} & {e.digest for e in right}
    assert len(left) + len(right) == len(training) + len(testing) or testing


def example_of(name: str, digest: str) -> Example:
    frames = np.zeros((2, 1, 1, 1), np.float32)
    geometry = pipeline.Geometry(
        (1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1, 1, 1), 0.0, 1.0
    )
    fov = np.ones((1, 1, 1), bool)
    return Example(name, Path(name), frames, (0, 1), {}, fov, geometry, geometry, digest)


def test_twins_of_testing_patients_are_dropped_and_named(tmp_path: Path, caplog):
    write(tmp_path / "acdc" / "training", 1, 2, 3)
    make_patient(tmp_path / "acdc" / "testing" / "patient118", seed=2)
    training, validation = load_examples(config_of(tmp_path))
    assert ids(training) == ["patient001", "patient003"]
    assert ids(validation) == ["patient118"]
    printed = caplog.text
    assert "patient002 left out of training: same images as patient118 in testing/" in printed


def test_twins_of_a_flat_folder_stay_in_training(tmp_path: Path):
    write(tmp_path / "acdc", 1, 2, 3, 1)
    training, validation = load_examples(config_of(tmp_path))
    assert ids(training) == ["patient001", "patient002", "patient004"]
    assert ids(validation) == ["patient003"]


@pytest.mark.parametrize("seeds", [(1,), (1, 1)])
def test_too_few_patients(tmp_path: Path, seeds: tuple[int, ...]):
    write(tmp_path / "acdc", *seeds)
    with pytest.raises(DataError, match="each side needs at least one"):
        load_examples(config_of(tmp_path))


def test_broken_patients_stop_the_start_or_are_left_out(tmp_path: Path, caplog):
    write(tmp_path / "acdc", *range(5))
    set_info(tmp_path / "acdc" / "patient002", ES=None)
    (tmp_path / "acdc" / "patient004" / "patient004_4d.nii.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError) as caught:
        load_examples(config_of(tmp_path))
    problems = "patient002: Info.cfg does not give ES", "patient004: patient004_4d.nii.gz cannot be"
    assert all(text in str(caught.value) for text in (*problems, "--data.skip-bad"))
    training, validation = load_examples(config_of(tmp_path, skip_bad=True))
    assert ids(training + validation) == ["patient001", "patient003", "patient005"]
    printed = caplog.text
    assert all(text in printed for text in (*problems, "left out: 2"))


def test_training_patients_do_not_replace_a_broken_testing_part(tmp_path: Path):
    write(tmp_path / "acdc" / "training", 1, 2, 3)
    make_patient(tmp_path / "acdc" / "testing" / "patient101")
    set_info(tmp_path / "acdc" / "testing" / "patient101", ED=None)
    with pytest.raises(DataError, match="3 patients to train on and 0 to validate on"):
        load_examples(config_of(tmp_path, skip_bad=True))


def test_a_file_that_cannot_be_opened_is_a_broken_patient(tmp_path: Path):
    write(tmp_path / "acdc", 1, 2)
    (tmp_path / "acdc" / "patient001" / "patient001_4d.nii").mkdir()
    with pytest.raises(DataError, match=r"patient001: patient001_4d.nii cannot be read"):
        load_examples(config_of(tmp_path))


def test_the_phantom_is_used_when_there_is_no_root(tmp_path: Path, monkeypatch, caplog):
    from mstg_jax.data import phantom

    caplog.set_level(logging.INFO, "mstg_jax")  # as commands do, but here none has begun

    def write_two(root: Path, patients, size, seed) -> Path:
        assert (patients, size, seed) == ((2, 1), (4, 32, 32), 3)
        write(root, 1, 2)
        return root

    monkeypatch.setattr(phantom, "write_phantom", write_two)
    config = DataConfig(
        cache=str(tmp_path),
        size=SIZE,
        phantom_patients=(2, 1),
        phantom_size=(4, 32, 32),
        phantom_seed=3,
    )
    training, _ = load_examples(config)
    assert training[0].folder.is_relative_to(tmp_path)
    assert "no data.root given: using the beating-heart phantom" in caplog.text


def test_importing_the_pipeline_does_not_import_jax():
    code = "import sys, mstg_jax.data.pipeline as _; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif("MSTG_ACDC_ROOT" not in os.environ, reason="MSTG_ACDC_ROOT is not set")
def test_real_patients(tmp_path: Path):
    """A few patients in a flat folder, at a small size."""
    root = tmp_path / "acdc"
    root.mkdir()
    for folder in sorted(Path(os.environ["MSTG_ACDC_ROOT"]).glob("training/patient*"))[:3]:
        (root / folder.name).symlink_to(folder.resolve())
    config = DataConfig(
        root=str(root), cache=str(tmp_path / "cache"), size=(16, 64, 64), crop="heart"
    )
    training, validation = load_examples(config)
    assert (len(training), len(validation)) == (2, 1)
    for example in training + validation:
        assert np.isfinite(example.frames).all()
        assert 0 <= example.frames[0].min() < example.frames[0].max() <= 1
        assert set(np.unique(example.labels[0])) == {0, 1, 2, 3}
