"""Scores of a patient, their averages, and the table."""

import json
from dataclasses import astuple, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mstg_jax.evaluation.as_json import average_record, score_record
from mstg_jax.evaluation.scoring import metrics, protocol
from mstg_jax.evaluation.scoring.scores import Dice, EjectionFraction, Score, average
from mstg_jax.evaluation.showing import tables

SHAPE = (6, 12, 14)
QUALITY = ["psnr", "ssim", "nmse", "psnr_fov", "ssim_fov", "nmse_fov"]


def example(frames: int = 5) -> Any:
    """A box of left ventricle in a ring of myocardium that shrinks, in a padded field of view."""
    generator = np.random.default_rng(3)
    fov = np.zeros(SHAPE, bool)
    fov[1:5] = True
    labels = {}
    for position, inset in ((0, 3), (frames - 1, 4)):
        labels[position] = np.zeros(SHAPE, np.uint8)
        labels[position][1:5, 2:10, 2:10] = 2
        labels[position][1:5, inset : 12 - inset, inset : 12 - inset] = 3
    return SimpleNamespace(
        id="patient007",
        frames=generator.random((frames, *SHAPE), dtype=np.float32) * fov,
        gammas=np.linspace(0, 1, frames, dtype=np.float32),
        labels=labels,
        fov=fov,
    )


def copy_ed(truth: protocol.Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = len(truth.frames)
    flow = np.zeros((t, *SHAPE, 3), np.float32)
    return np.repeat(truth.frames[:1], t, 0), flow, np.repeat(truth.labels[0][None], t, 0)


def anatomy(score: Score) -> tuple[Dice, EjectionFraction]:
    assert score.dice is not None
    assert score.ejection_fraction is not None
    return score.dice, score.ejection_fraction


def test_a_perfect_sequence():
    truth = example()
    labels = np.stack([truth.labels[0]] * 4 + [truth.labels[4]])
    found = protocol.score(truth, truth.frames.copy(), None, labels)
    assert found.between.psnr == found.between.psnr_fov == 100
    assert found.between.ssim_fov == pytest.approx(1, abs=1e-6)
    assert found.between.nmse == 0
    dice, fractions = anatomy(found)
    assert np.isnan(dice.rv)
    assert (dice.myo, dice.lv, dice.mean) == (1, 1, 1)
    assert fractions.error == 0
    assert found.folding is None


def test_between_is_the_mean_of_the_frames_strictly_between():
    truth = example()
    frames, flow, labels = copy_ed(truth)
    found = protocol.score(truth, frames, flow, labels)
    expected = [metrics.psnr(f, y, truth.fov) for f, y in zip(frames, truth.frames, strict=True)]
    assert [f.quality.psnr_fov for f in found.per_frame] == pytest.approx(expected)
    assert found.between.psnr_fov == pytest.approx(np.mean(expected[1:4]))
    assert found.between.psnr > found.between.psnr_fov
    assert (found.protocol, found.id) == ("resampled", "patient007")
    assert [f.gamma for f in found.per_frame] == [0, 0.25, 0.5, 0.75, 1]


def test_overlap_folding_and_ejection_fraction():
    truth = example()
    frames, flow, labels = copy_ed(truth)
    flow[2, ..., 0] = -2 * np.arange(6)[:, None, None]
    found = protocol.score(truth, frames, flow, labels)
    assert found.folding == pytest.approx(1 / 4)
    assert [f.folding for f in found.per_frame] == [0, 0, 1, 0, 0]
    dice, fractions = anatomy(found)
    assert dice.lv == pytest.approx(2 * 16 / (36 + 16))
    assert dice.mean == pytest.approx((dice.lv + dice.myo) / 2)
    assert fractions.truth == pytest.approx(1 - 16 / 36)
    assert (fractions.generated, fractions.error) == (0, fractions.truth)
    assert [f.lv_volume for f in found.per_frame] == [1] * 5


def test_labels_at_the_border_survive_motion_outward():
    """A ventricle in the first and the last slice, moved out by a tenth of a voxel."""
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[[0, 2], 1:3, 1:4] = 3
    flow = np.zeros((2, 3, 4, 5, 3), np.float32)
    flow[0, 0, ..., 0], flow[0, 2, ..., 0] = -0.1, 0.1
    flow[1, ..., 0] = 5
    near, far = protocol.warp_labels(labels, flow)
    np.testing.assert_array_equal(near, labels)
    np.testing.assert_array_equal(far, np.repeat(labels[2:], 3, 0))


def test_without_frames_between_es_alone_is_scored():
    """Its overlap and volumes; its PSNR is kept, but is no mean of frames between."""
    truth = example(frames=2)
    found = protocol.score(truth, *copy_ed(truth))
    assert np.isnan(astuple(found.between)).all()
    assert found.per_frame[-1].quality.psnr_fov < 100
    dice, fractions = anatomy(found)
    assert dice.lv == pytest.approx(2 * 16 / (36 + 16))
    assert fractions.error == pytest.approx(1 - 16 / 36)
    assert found.lv_volume_error == pytest.approx(1 - 16 / 36)
    assert np.isnan(found.roughness.ratio)


@pytest.mark.parametrize("positions", [(), (0,), (4,), (2,), (0, 2)])
def test_without_labels_of_ed_and_es_there_is_no_anatomy(positions):
    truth = example()
    frames, flow, labels = copy_ed(truth)
    truth.labels = {position: truth.labels[0] for position in positions}
    found = protocol.score(truth, frames, flow, labels)
    assert found.dice is found.ejection_fraction is found.lv_volume_error is None
    assert all(frame.lv_volume is None for frame in found.per_frame)
    assert found.folding == 0


def test_unlabelled_frames_have_no_volume():
    """Absent is not empty: only labelled frames count in the volume error."""
    truth = example()
    frames, flow, labels = copy_ed(truth)
    sparse = protocol.score(truth, frames, flow, labels)
    assert [f.lv_volume_truth for f in sparse.per_frame][1:4] == [None] * 3
    assert sparse.lv_volume_error == pytest.approx(1 - 16 / 36)
    truth.labels[2] = truth.labels[0]
    assert protocol.score(truth, frames, flow, labels).lv_volume_error == pytest.approx(
        (1 - 16 / 36) / 2
    )


def test_scores_are_strict_json():
    truth = example()
    frames, flow, labels = copy_ed(truth)
    found = protocol.score(truth, frames, flow, np.zeros_like(labels))
    record, means = score_record(found), average_record(average([found]))
    assert record["dice"]["rv"] is means["dice"]["rv"] is None
    for item in (record, means):
        assert json.loads(json.dumps(item, allow_nan=False)) == item


def test_the_keys_of_json():
    """Those of a score with everything, and of one whose method has no flow."""
    truth = example()
    full, bare = protocol.score(truth, *copy_ed(truth)), protocol.score(truth, truth.frames)
    own = ["folding", "dice", "ejection_fraction", "lv_volume_error"]
    head = ["id", "protocol", "between", "roughness", "per_frame"]
    record = score_record(full)
    assert list(record) == head + own
    assert list(score_record(replace(full, seconds=1.5))) == [*head, *own, "seconds"]
    assert list(score_record(bare)) == head
    counts = ["protocol", "patients", "none_between"]
    assert list(average_record(average([full, bare]))) == [*counts, "between", "roughness", *own]
    assert list(average_record(average([bare]))) == [*counts, "between", "roughness"]
    assert list(record["between"]) == QUALITY
    assert list(record["roughness"]) == ["generated", "truth", "ratio"]
    assert list(record["dice"]) == ["rv", "myo", "lv", "mean"]
    assert list(record["ejection_fraction"]) == ["truth", "generated", "error"]
    volumes = ["folding", "lv_volume", "lv_volume_truth"]
    assert list(record["per_frame"][0]) == ["gamma", *QUALITY, *volumes]
    assert list(record["per_frame"][1]) == ["gamma", *QUALITY, *volumes[:2]]
    assert list(score_record(bare)["per_frame"][0]) == ["gamma", *QUALITY]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_frame_of_nan_is_left_out_and_an_infinite_one_leaves_the_mean_undefined():
    truth = example()
    frames = copy_ed(truth)[0]
    others = [protocol.score(truth, frames).per_frame[i].quality.nmse for i in (1, 3)]
    for value, expected in ((np.nan, np.mean(others)), (np.inf, np.nan)):
        frames[2] = value
        found = protocol.score(truth, frames)
        assert np.isnan(found.per_frame[2].quality.nmse)
        assert found.between.nmse == pytest.approx(expected, nan_ok=True)


def test_other_gammas_are_refused():
    truth = example()
    message = (
        r"patient007: frames has shape \(t d h w\) \(3, 6, 12, 14\) .* (5 gammas|its 5 gammas)"
    )
    with pytest.raises(ValueError, match=message):
        protocol.score(truth, truth.frames[:3])


def test_average_leaves_out_what_is_undefined():
    truth, short = example(), example(frames=2)
    first = protocol.score(truth, *copy_ed(truth))
    second = protocol.score(short, copy_ed(short)[0])
    mean = average([first, second])
    assert mean.patients == 2
    assert mean.none_between == 1
    assert mean.between == first.between
    assert average_record(mean)["dice"] == score_record(first)["dice"]
    assert mean.folding == 0
    assert not hasattr(mean, "per_frame")


def test_average_refuses_mixed_protocols():
    truth = example()
    found = protocol.score(truth, truth.frames)
    with pytest.raises(ValueError, match=r"\['native', 'resampled'\]"):
        average([found, replace(found, protocol="native")])
    with pytest.raises(ValueError, match="average"):
        average([])


def test_table():
    truth = example()
    full = average([protocol.score(truth, *copy_ed(truth))])
    bare = average([protocol.score(truth, truth.frames)])
    lines = tables.score_table({"copy": full, "perfect": bare}).splitlines()
    assert lines[0].startswith("Protocol: resampled.")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert {len(row) for row in rows} == {7}
    assert [row[0] for row in rows] == ["Method", "---", "copy", "perfect"]
    assert rows[2][2] == f"{full.between.psnr_fov:.2f}"
    assert rows[2][6] == "0.000%"
    assert rows[3] == ["perfect", "1", "100.00", "1.000", "0.0000", "–", "–"]
