"""The spatial transformer against scipy and closed forms, and the deformation network."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp
from scipy import ndimage

from mstg_jax.config import ModelConfig
from mstg_jax.models.deformation import DeformationNet, warp
from mstg_jax.training.state import parameter_count

SHAPE = (4, 5, 6)
moved = jax.jit(warp)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


IMAGE = normal(0, 2, *SHAPE, 1)


def test_zero_flow_is_the_identity():
    np.testing.assert_array_equal(moved(IMAGE, np.zeros((2, *SHAPE, 3), np.float32)), IMAGE)


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, -2, 0), (0, 0, 3), (-1, 2, -3), (4, 0, 0)])
def test_whole_voxels_shift_and_zeros_come_in(shift):
    flow = np.broadcast_to(np.float32(shift), (2, *SHAPE, 3))
    wanted = ndimage.shift(IMAGE, [0, *(-s for s in shift), 0], order=0)
    np.testing.assert_array_equal(moved(IMAGE, flow), wanted)


def test_trilinear():
    flow = 2 * normal(1, 2, *SHAPE, 3)
    at = np.moveaxis(np.stack(np.indices(SHAPE), axis=-1) + flow, -1, 1)
    wanted = [
        # One voxel of zeros, then nothing but zeros: scipy would cut off within that voxel.
        ndimage.map_coordinates(np.pad(image[..., 0], 2), where + 2, order=1)
        for image, where in zip(IMAGE, at, strict=True)
    ]
    np.testing.assert_allclose(moved(IMAGE, flow)[..., 0], np.stack(wanted), atol=1e-5)


@pytest.mark.parametrize("far", [100.0, -1e9, 3e38])
def test_far_beyond_the_border_is_zero(far):
    for axis in range(3):
        flow = np.zeros((2, *SHAPE, 3), np.float32)
        flow[..., axis] = far
        np.testing.assert_array_equal(moved(IMAGE, flow), np.zeros_like(IMAGE))


def test_gradients():
    """Away from whole voxels, where the derivative jumps: against differences in both inputs."""
    rng = np.random.default_rng(2)
    flow = (rng.integers(-2, 3, (2, *SHAPE, 3)) + rng.uniform(0.2, 0.8, (2, *SHAPE, 3))).astype(
        np.float32
    )
    weight = normal(3, *IMAGE.shape)

    def objective(image, flow):
        return jnp.sum(warp(image, flow) * weight)

    by_image, by_flow = jax.jit(jax.grad(objective, argnums=(0, 1)))(IMAGE, flow)
    step = 0.1 * np.sign(normal(4, *flow.shape))  # trilinear: linear along one axis at a time
    for axis in range(3):
        along = np.zeros_like(flow)
        along[..., axis] = step[..., axis]
        ahead, behind = (
            np.sum(np.float64(moved(IMAGE, flow + s * along)) * weight) for s in (1, -1)
        )
        np.testing.assert_allclose(np.sum(by_flow * along), (ahead - behind) / 2, atol=1e-3)
    np.testing.assert_allclose(  # linear in the image
        np.sum(np.float64(by_image) * IMAGE), np.sum(moved(IMAGE, flow) * weight), rtol=1e-3
    )


def test_network():
    """DDM's number of parameters (its own code, counted), and a displacement per voxel."""
    channels = ModelConfig().deformation_channels
    net = DeformationNet(channels, rng=np.random.default_rng(0))
    assert parameter_count(nnx.state(net, nnx.Param)) == 361_299
    small = DeformationNet((4, 6, 6), rng=np.random.default_rng(0))
    x = jnp.asarray(normal(0, 2, 4, 8, 12, 2))
    flow = jax.jit(lambda x: small(x))(x)
    assert flow.shape == (2, 4, 8, 12, 3)
    assert 0 < float(jnp.abs(flow).max()) < 0.1  # N(0, 0.02): it starts near the identity
