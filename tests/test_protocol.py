"""Scores of a patient, their averages, and the table."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mstg_jax.evaluation import metrics, protocol, tables

SHAPE = (6, 12, 14)


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


def test_a_perfect_sequence():
    truth = example()
    labels = np.stack([truth.labels[0]] * 4 + [truth.labels[4]])
    found = protocol.score(truth, truth.frames.copy(), None, labels)
    assert found["between"]["psnr"] == found["between"]["psnr_fov"] == 100
    assert found["between"]["ssim_fov"] == pytest.approx(1, abs=1e-6)
    assert found["between"]["nmse"] == 0
    assert found["dice"] == {"rv": None, "myo": 1, "lv": 1, "mean": 1}
    assert found["ejection_fraction"]["error"] == 0
    assert "folding" not in found


def test_between_is_the_mean_of_the_frames_strictly_between():
    truth = example()
    frames, flow, labels = copy_ed(truth)
    found = protocol.score(truth, frames, flow, labels)
    expected = [metrics.psnr(f, y, truth.fov) for f, y in zip(frames, truth.frames, strict=True)]
    assert [f["psnr_fov"] for f in found["per_frame"]] == pytest.approx(expected)
    assert found["between"]["psnr_fov"] == pytest.approx(np.mean(expected[1:4]))
    assert found["between"]["psnr"] > found["between"]["psnr_fov"]
    assert (found["protocol"], found["id"]) == ("resampled", "patient007")
    assert [f["gamma"] for f in found["per_frame"]] == [0, 0.25, 0.5, 0.75, 1]


def test_overlap_folding_and_ejection_fraction():
    truth = example()
    frames, flow, labels = copy_ed(truth)
    flow[2, ..., 0] = -2 * np.arange(6)[:, None, None]
    found = protocol.score(truth, frames, flow, labels)
    assert found["folding"] == pytest.approx(1 / 4)
    assert [f["folding"] for f in found["per_frame"]] == [0, 0, 1, 0, 0]
    assert found["dice"]["lv"] == pytest.approx(2 * 16 / (36 + 16))
    assert found["dice"]["mean"] == pytest.approx((found["dice"]["lv"] + found["dice"]["myo"]) / 2)
    fractions = found["ejection_fraction"]
    assert fractions["truth"] == pytest.approx(1 - 16 / 36)
    assert (fractions["generated"], fractions["error"]) == (0, fractions["truth"])
    assert [f["lv_volume"] for f in found["per_frame"]] == [1] * 5


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
    assert found["between"] == dict.fromkeys(found["between"])
    assert found["per_frame"][-1]["psnr_fov"] < 100
    assert found["dice"]["lv"] == pytest.approx(2 * 16 / (36 + 16))
    assert found["ejection_fraction"]["error"] == pytest.approx(1 - 16 / 36)
    assert found["lv_volume_error"] == pytest.approx(1 - 16 / 36)
    assert found["roughness"]["ratio"] is None


@pytest.mark.parametrize("positions", [(), (0,), (4,), (2,), (0, 2)])
def test_without_labels_of_ed_and_es_there_is_no_anatomy(positions):
    truth = example()
    frames, flow, labels = copy_ed(truth)
    truth.labels = {position: truth.labels[0] for position in positions}
    found = protocol.score(truth, frames, flow, labels)
    assert "dice" not in found
    assert not any("lv_volume" in frame for frame in found["per_frame"])
    assert found["folding"] == 0


def test_unlabelled_frames_have_no_volume():
    """Absent is not empty: only labelled frames count in the volume error."""
    truth = example()
    frames, flow, labels = copy_ed(truth)
    sparse = protocol.score(truth, frames, flow, labels)
    assert [f.get("lv_volume_truth") for f in sparse["per_frame"]][1:4] == [None] * 3
    assert sparse["lv_volume_error"] == pytest.approx(1 - 16 / 36)
    truth.labels[2] = truth.labels[0]
    assert protocol.score(truth, frames, flow, labels)["lv_volume_error"] == pytest.approx(
        (1 - 16 / 36) / 2
    )


def test_scores_are_strict_json():
    truth = example()
    frames, flow, labels = copy_ed(truth)
    found = protocol.score(truth, frames, flow, np.zeros_like(labels))
    assert found["dice"]["rv"] is None
    for item in (found, protocol.average([found])):
        assert json.loads(json.dumps(item, allow_nan=False)) == item


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
    mean = protocol.average([first, second])
    assert mean["patients"] == 2
    assert mean["none_between"] == 1
    assert mean["between"] == first["between"]
    assert mean["dice"] == first["dice"]
    assert mean["folding"] == 0
    assert "per_frame" not in mean


def test_average_refuses_mixed_protocols():
    truth = example()
    found = protocol.score(truth, truth.frames)
    with pytest.raises(ValueError, match=r"\['native', 'resampled'\]"):
        protocol.average([found, {**found, "protocol": "native"}])
    with pytest.raises(ValueError, match="average"):
        protocol.average([])


def test_table():
    truth = example()
    full = protocol.average([protocol.score(truth, *copy_ed(truth))])
    bare = protocol.average([protocol.score(truth, truth.frames)])
    lines = tables.score_table({"copy": full, "perfect": bare}).splitlines()
    assert lines[0].startswith("Protocol: resampled.")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert {len(row) for row in rows} == {7}
    assert [row[0] for row in rows] == ["Method", "---", "copy", "perfect"]
    assert rows[2][2] == f"{full['between']['psnr_fov']:.2f}"
    assert rows[2][6] == "0.000%"
    assert rows[3] == ["perfect", "1", "100.00", "1.000", "0.0000", "–", "–"]
