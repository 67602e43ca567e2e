"""Frames on the patient's own slices, scored on resampled ones like all others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from acdc_files import config_of, write

from mstg_jax.data.acdc import read_patient
from mstg_jax.data.pipeline import Example, example_of, load_examples
from mstg_jax.evaluation.scoring.protocol import score, score_sequence
from mstg_jax.evaluation.scoring.resampled import resampled_sequence, resampled_truth
from mstg_jax.methods.base import FrameSequence


@pytest.fixture(params=["centre", "heart"])
def both(request, tmp_path: Path) -> tuple[Example, Example]:
    """A patient on its own slices, and on resampled ones."""
    write(tmp_path / "acdc", 1, 2, shape=(6, 5, 15, 14))
    config = replace(config_of(tmp_path), crop=request.param, spacing=(3.15, 1.5, 1.5))
    native, usual = (
        load_examples(replace(config, depth=depth))[0][0] for depth in ("native", "resampled")
    )
    return native, usual


def test_own_slices_are_neither_interpolated_nor_cut(both):
    native, usual = both
    patient = read_patient(native.folder)
    assert native.frames.shape[1] == patient.frames.shape[1] == 5
    assert native.geometry.spacing[0] == patient.spacing[0]
    assert native.resampled == usual.geometry == usual.resampled
    made = native.geometry.inverse_change(native.frames[0]) + native.geometry.low
    inside = native.geometry.covered()
    assert np.abs(made - patient.frames[patient.ed])[inside].mean() < 12  # of 80, white noise


def test_the_truth_is_the_same(both):
    native, usual = both
    truth = resampled_truth(native)
    np.testing.assert_allclose(truth.frames, usual.frames, atol=1e-6)
    np.testing.assert_array_equal(truth.fov, usual.fov)
    assert truth.labels.keys() == usual.labels.keys()
    for i, labels in usual.labels.items():
        np.testing.assert_array_equal(truth.labels[i], labels)
    assert resampled_truth(usual) is usual


def test_scores_are_those_of_the_resampled_frames(both):
    """The blend of two ends, resampled, is the blend of the resampled ends."""
    native, usual = both

    def blended(example: Example) -> np.ndarray:
        share = example.gammas[:, None, None, None]
        return (1 - share) * example.frames[0] + share * example.frames[-1]

    made = resampled_sequence(native, FrameSequence(blended(native), None))
    got = score_sequence(resampled_truth(native), made)
    expected = score(usual, blended(usual))
    assert got.between.psnr_fov == pytest.approx(expected.between.psnr_fov, abs=1e-3)
    assert got.between.ssim == pytest.approx(expected.between.ssim, abs=1e-5)


def test_displacements_are_in_voxels_of_the_resampled_grid(both):
    """One slice of 10 mm is 3.17 of 3.15 mm; a constant displacement does not fold anywhere."""
    native, _ = both
    flow = np.ones((*native.frames.shape, 3), np.float32)
    made = resampled_sequence(native, FrameSequence(np.array(native.frames), flow))
    assert made.flow is not None
    np.testing.assert_allclose(made.flow[..., 0], native.geometry.spacing[0] / 3.15, rtol=1e-5)
    np.testing.assert_allclose(made.flow[..., 1:], 1, rtol=1e-6)
    assert score_sequence(resampled_truth(native), made).folding == 0


def test_a_patient_in_memory_is_the_same_as_from_the_cache(tmp_path: Path):
    write(tmp_path / "acdc", 1, 2)
    config = replace(config_of(tmp_path), depth="native")
    cached = load_examples(config)[0][0]
    fresh = example_of(read_patient(cached.folder), config)
    np.testing.assert_array_equal(cached.cycle, fresh.cycle)
    assert (cached.order, cached.geometry, cached.resampled, cached.closing_step) == (
        fresh.order, fresh.geometry, fresh.resampled, fresh.closing_step
    )  # fmt: skip
