"""The nearest training frame: a planted copy is found, whatever its brightness."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mstg_jax.evaluation.comparing.likeness import Match, nearest, summarise

SHAPE = (4, 6, 5)


def patients(count: int = 3, frames: int = 4) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        SimpleNamespace(
            id=f"patient{i:03d}",
            frames=rng.random((frames, *SHAPE), dtype=np.float32),
            gammas=np.linspace(0, 1, frames, dtype=np.float32),
            labels={},
            fov=np.ones(SHAPE, bool),
        )
        for i in range(count)
    ]


def test_a_planted_copy_is_found():
    training = patients()
    new = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    frames = np.stack([0.5 * training[2].frames[1] + 0.2, new]).astype(np.float32)
    copy, other = nearest(frames, np.ones(SHAPE, bool), training)
    assert (copy.patient, copy.frame) == ("patient002", 1)
    assert copy.correlation == pytest.approx(1, abs=1e-5)
    assert other.correlation < 0.5


def test_only_the_field_of_view_counts():
    training = patients()
    fov = np.zeros(SHAPE, bool)
    fov[:2] = True
    frames = np.where(fov, training[1].frames[3], np.float32(9))[None]
    (match,) = nearest(frames, fov, training)
    assert (match.patient, match.frame) == ("patient001", 3)
    assert match.correlation == pytest.approx(1, abs=1e-5)


def test_correlation_is_pearsons():
    training = patients(count=1, frames=1)
    frames = np.random.default_rng(2).random((1, *SHAPE), dtype=np.float32)
    (match,) = nearest(frames, np.ones(SHAPE, bool), training)
    expected = np.corrcoef(frames.ravel(), training[0].frames.ravel())[0, 1]
    assert match.correlation == pytest.approx(expected, abs=1e-5)


def test_a_constant_frame_is_like_none():
    (match,) = nearest(np.full((1, *SHAPE), 0.3, np.float32), np.ones(SHAPE, bool), patients())
    assert match.correlation == 0


def test_without_training_patients_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match="needs at least one"):
        nearest(np.zeros((1, *SHAPE), np.float32), np.ones(SHAPE, bool), [])


def test_summary():
    matches = {
        "patient101": [Match(0.5, "patient001", 2), Match(0.95, "patient002", 0)],
        "patient102": [Match(0.8, "patient001", 1)],
    }
    found = summarise(matches, 0.95)
    assert found.mean == pytest.approx(0.75)
    assert (found.max, found.frames) == (0.95, 3)
    assert found.share == pytest.approx(1 / 3)
    assert found.closest == "patient101 to patient002, frame 0"
    none = summarise({}, 0.95)
    assert np.isnan([none.mean, none.max, none.share]).all()
    assert (none.frames, none.closest) == (0, None)
