"""Gaps between key frames, and whether a cine closes."""

from dataclasses import replace

import numpy as np
import pytest
from jax import numpy as jnp

from mstg_jax.config import PRESETS
from mstg_jax.cycles import fill, gaps, linear
from mstg_jax.data.cycle import CLOSED_BELOW, closing_step
from mstg_jax.methods import make_method, new_model

TEN = [float(i) for i in range(10)]


def beating(count: int, period: float) -> np.ndarray:
    """Frames of a ball whose radius follows a cosine, (t d h w)."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (4, 16, 16)), indexing="ij"))
    far = np.sqrt((grid**2).sum(0))
    radii = 0.6 + 0.2 * np.cos(1 + 2 * np.pi * np.arange(count) / period)
    return np.stack([1 / (1 + np.exp(12 * (far - r))) for r in radii]).astype(np.float32)


@pytest.mark.parametrize(("period", "closed"), [(20, True), (20.3, True), (22, False), (24, False)])
def test_a_cine_that_misses_the_end_of_the_cycle_is_found(period, closed):
    step = closing_step(beating(20, period))
    assert (step < CLOSED_BELOW) == closed
    assert 0.5 < step <= period - 18.5


def test_two_frames_say_nothing_about_the_cycle():
    assert closing_step(beating(2, 20)) == 1


def test_gaps_of_a_closed_and_of_an_open_cycle():
    found = gaps([0.0, 4.0, 8.0], TEN, 10.0)
    assert [(g.first, g.last, g.wanted) for g in found] == [
        (0, 1, [1, 2, 3]),
        (1, 2, [5, 6, 7]),
        (2, 0, [9]),
    ]
    np.testing.assert_allclose(found[0].gammas, [0.25, 0.5, 0.75])
    assert [g.span for g in found] == [(0.4, 4), (0.4, 4), (0.2, 2)]
    with pytest.raises(
        ValueError, match=r"no two keys at \[0.0, 4.0, 8.0\] enclose the times \[9.0\]"
    ):
        gaps([0.0, 4.0, 8.0], TEN, None)


@pytest.mark.parametrize(
    ("at", "period", "beside"),
    [
        ([0, 2, 4, 6], 8.0, [(3, 2), (0, 3), (1, 0), (2, 1)]),
        ([0, 2, 4, 6], None, [(None, 2), (0, 3), (1, None)]),
        ([0, 2, 4, 6], 9.0, [(None, 2), (0, 3), (1, None), (None, None)]),
        ([0, 4], 8.0, [(None, None), (None, None)]),
    ],
)
def test_keys_beyond_a_gap_are_as_far_as_it_is_long(at, period, beside):
    wanted = [k + 0.5 for k in range(8 if period else 6)]
    found = gaps([float(k) for k in at], wanted, period)
    assert [(gap.before, gap.after) for gap in found] == beside


def test_a_method_is_told_how_its_keys_bend():
    """At either end, from the keys beyond."""
    config = PRESETS["acdc-cine-tiny"][1]
    method = make_method(replace(config, data=replace(config.data, size=(8, 16, 16))))
    graph, params = new_model(method, seed=0)
    share = -1 / 16  # of each second difference in the middle of a cubic
    bias = params["synthesis"]["out"]["bias"]
    bias.set_value(jnp.tile(jnp.array([0, 0, share, share]), len(bias) // 4))
    times = np.arange(8, dtype=np.float32)[:, None, None, None]
    cubic = 0.4 + 0.01 * (times - 3) ** 2 + np.zeros((8, 4, 16, 16), np.float32)
    keys, at = cubic[::2], [0.0, 2.0, 4.0, 6.0]
    made = fill(method, (graph, params), keys, at, [1.0, 3.0, 5.0])
    blend = linear(keys, at, [1.0, 3.0, 5.0])
    np.testing.assert_allclose(made[1], cubic[3], atol=1e-6)
    for i in (0, 2):  # one of the two keys beyond is not known
        np.testing.assert_allclose(made[i], (blend[i] + cubic[2 * i + 1]) / 2, atol=1e-6)


def test_keys_stay_what_they_are_and_blends_are_linear():
    config = replace(PRESETS["demo-tiny"][1], method="blend")
    method = make_method(config)
    cycle = beating(12, 12)
    keys, wanted = [0, 3, 6, 9], [float(i) for i in range(12)]
    at = [float(i) for i in keys]
    made = fill(method, new_model(method, seed=0), cycle[keys], at, wanted, period=12.0)
    np.testing.assert_array_equal(made[keys], cycle[keys])
    np.testing.assert_allclose(made, linear(cycle[keys], at, wanted, period=12.0), atol=1e-6)
    np.testing.assert_allclose(made[10], (2 * cycle[9] + cycle[0]) / 3, atol=1e-6)
