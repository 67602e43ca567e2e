"""The native protocol on patients small enough to work out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from acdc_files import make_patient

from mstg_jax.data.acdc import Patient, read_patient
from mstg_jax.data.geometry import Geometry
from mstg_jax.evaluation.scoring.native import (
    centred,
    limits,
    native_sequence,
    native_truth,
    scaled,
)
from mstg_jax.evaluation.scoring.protocol import score_sequence
from mstg_jax.methods import FrameSequence

SIZE = (32, 128, 128)


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    make_patient(tmp_path / "patient001", shape=(5, 6, 40, 36), labels="all")
    return read_patient(tmp_path / "patient001")


def same_grid(patient: Patient) -> Geometry:
    """A model's grid whose voxels are the patient's own."""
    return Geometry.fit(patient, patient.spacing, (6, 40, 36), "centre")


def test_centred_cuts_and_pads_about_the_middle():
    volumes = np.arange(35, dtype=np.float32)[:, None, None] * np.ones((1, 129, 3), np.float32)
    out = centred(volumes)
    assert out.shape == SIZE
    assert out[:, 0, 62:65].tolist() == [[i + 1.0] * 3 for i in range(32)]
    assert not out[..., :62].any()
    assert not out[..., 65:].any()
    assert centred(volumes[:5], mode="edge")[-1, 0, 0] == 4


def own_range(frames: np.ndarray) -> np.ndarray:
    return scaled(frames, *limits(frames))


def test_own_range():
    frames = np.array([2.0, 4, 6], np.float32).reshape(1, 1, 1, 3)
    both = np.concatenate([frames, np.full_like(frames, 7)])
    assert own_range(both).ravel().tolist() == [0, 0.5, 1, 0, 0, 0]


def test_the_range_goes_from_that_of_ed_to_that_of_es(patient: Patient):
    """So a bright voxel that no true frame has costs its own error only."""
    frames = patient.frames.copy()
    frames[patient.ed] *= 3
    brightest = frames[patient.es].max()
    frames[patient.ed, 0, 0, 0] = 3 * brightest
    patient, geometry = replace(patient, frames=frames), same_grid(patient)
    sequence = np.full((3, *frames.shape[1:]), brightest, np.float32)
    sequence[1, 3, 20, 20] = 1e5
    made = native_sequence(
        patient, geometry, FrameSequence(geometry.forward(sequence), None)
    ).frames
    inside = native_truth(patient).fov
    medians = [np.median(frame[inside]) for frame in made]
    np.testing.assert_allclose(medians, [1 / 3, 1 / 2, 1], rtol=1e-4)


def test_truth_is_padded_before_it_is_scaled(patient: Patient):
    truth = native_truth(patient)
    assert truth.frames.shape == (4, *SIZE)
    assert truth.fov.sum() == 6 * 40 * 36
    for made, frame in zip(truth.frames, patient.frames[patient.sequence], strict=True):
        np.testing.assert_allclose(made[truth.fov], frame.ravel() / frame.max(), rtol=1e-6)
        assert not made[~truth.fov].any()
    assert sorted(truth.labels) == [0, 1, 2, 3]


def test_the_true_frames_score_as_perfect(patient: Patient):
    geometry, truth = same_grid(patient), native_truth(patient)
    frames = geometry.forward(patient.frames[patient.sequence])
    made = native_sequence(patient, geometry, FrameSequence(frames, None))
    np.testing.assert_allclose(made.frames, truth.frames, atol=1e-5)
    score = score_sequence(truth, made, "native")
    assert score.protocol == "native"
    assert score.between.psnr > 90
    assert score.between.ssim_fov == pytest.approx(1, abs=1e-4)


def test_a_known_error(patient: Patient):
    """ED again: the padding lowers the squared error by the share of it, and not the NMSE."""
    geometry, truth = same_grid(patient), native_truth(patient)
    frames = geometry.forward(np.repeat(patient.frames[patient.ed][None], 4, 0))
    made = native_sequence(patient, geometry, FrameSequence(frames, None))
    score = score_sequence(truth, made, "native").between
    share = truth.fov.mean()
    assert score.psnr - score.psnr_fov == pytest.approx(-10 * np.log10(share), abs=1e-3)
    assert score.nmse == pytest.approx(score.nmse_fov, rel=1e-4)
    ed = own_range(patient.frames[patient.ed][None])
    errors = [
        np.mean((own_range(patient.frames[i][None]) - ed) ** 2) for i in patient.sequence[1:-1]
    ]
    assert score.psnr_fov == pytest.approx(np.mean(-10 * np.log10(errors)), abs=0.05)


def test_flow_warps_the_native_labels(patient: Patient):
    """Two model voxels of half the native size along w are one native voxel."""
    d, h, w = patient.spacing
    geometry = Geometry.fit(patient, (d, h, w / 2), (6, 40, 72), "centre")
    flow = np.zeros((4, 6, 40, 72, 3), np.float32)
    flow[..., 2] = 2
    frames = geometry.forward(np.repeat(patient.frames[patient.ed][None], 4, 0))
    made = native_sequence(patient, geometry, FrameSequence(frames, flow))
    assert made.flow is not None
    np.testing.assert_allclose(made.flow[..., 2], 1, atol=1e-4)
    score = score_sequence(native_truth(patient), made, "native")
    assert score.folding == 0
    assert [f.lv_volume for f in score.per_frame] == [1] * 4
    truths = [f.lv_volume_truth or 0 for f in score.per_frame]
    assert 0 < truths[-1] < 1
    assert score.lv_volume_error == pytest.approx(np.mean([1 - t for t in truths[1:]]))
