"""Token orders: permutations, their inverses, and neighbours that stay neighbours."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from mstg_jax.config import BranchName, Order
from mstg_jax.models.orders import walks

ORDERS, BRANCHES = get_args(Order), get_args(BranchName)


def visited(walk, shape):
    """(l 4): the voxel (f d h w) of each token."""
    numbers = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(1, *shape, 1)
    tokens = np.asarray(walk.serialise(numbers))[0, :, 0].astype(int)
    return np.stack(np.unravel_index(tokens, shape), axis=1)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=5, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 5)] * 4))
def test_every_voxel_once_and_back(order, branch, shape):
    x = np.arange(2 * np.prod(shape) * 3, dtype=np.float32).reshape(2, *shape, 3)
    for walk in walks(order, branch, shape):
        tokens = walk.serialise(jnp.asarray(x))
        assert tokens.shape == (2, np.prod(shape), 3)
        np.testing.assert_array_equal(np.sort(tokens[1, :, 0]), x[1, ..., 0].reshape(-1))
        np.testing.assert_array_equal(walk.restore(tokens, x.shape), x)


def test_number_of_walks():
    for order in ORDERS:
        for branch in BRANCHES:
            assert len(walks(order, branch, (2, 3, 4, 5))) == (3 if order == "triaxis" else 1)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_hilbert_steps_to_a_neighbour(size, branch):
    (walk,) = walks("hilbert", branch, (1, size, size, size))
    steps = np.abs(np.diff(visited(walk, (1, size, size, size)), axis=0)).sum(1)
    np.testing.assert_array_equal(steps, 1)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (1, 3, 5, 2), (3, 2, 3, 4)])
def test_zigzag_steps_to_a_neighbour(shape, branch):
    (walk,) = walks("zigzag", branch, shape)
    steps = np.abs(np.diff(visited(walk, shape), axis=0)).sum(1)
    np.testing.assert_array_equal(steps, 1)


def test_raster():
    """Spatial: w fastest, then h. Temporal: the slices fastest where there is one frame."""
    shape = (1, 2, 3, 4)
    (spatial,), (temporal,) = (walks("raster", branch, shape) for branch in BRANCHES)
    np.testing.assert_array_equal(
        visited(spatial, shape)[:5],
        [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3], [0, 0, 1, 0]],
    )
    np.testing.assert_array_equal(
        visited(temporal, shape)[:4], [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]]
    )


@pytest.mark.parametrize("order", ORDERS)
def test_temporal_branch_has_the_frames_fastest(order):
    shape = (3, 2, 4, 2)
    for walk in walks(order, "temporal", shape):
        stays = visited(walk, shape).reshape(-1, 3, 4)
        assert np.all(stays[:, :, 1:] == stays[:, :1, 1:])
        if order != "zigzag":
            np.testing.assert_array_equal(stays[:, :, 0], [[0, 1, 2]] * 16)


@pytest.mark.parametrize("order", ORDERS)
def test_spatial_branch_goes_frame_after_frame(order):
    shape = (3, 2, 4, 2)
    for walk in walks(order, "spatial", shape):
        assert np.all(np.diff(visited(walk, shape)[:, 0]) >= 0)
