"""A volume on its way to the networks, beside the PyTorch reference's steps."""

import numpy as np
import parity
import pytest
from torch_reference.diffusion import preprocess, scale

from mstg_jax.data.geometry import Geometry

SPACING = (3.15, 1.5, 1.5)


def geometry(volume, size):
    """Of a volume that is on the networks' grid already: crop or pad about the centre."""
    centre = tuple((n - 1) / 2 for n in volume.shape)
    low, high = float(volume.min()), float(volume.max())
    return Geometry(volume.shape, SPACING, centre, SPACING, size, low, high)


@pytest.mark.parametrize("depth", [20, 32, 40])
def test_range_crop_and_padding(depth):
    """To [-1, 1] by the volume's own range, cropped in plane, padded with -1 in depth."""
    volume = np.random.default_rng(0).gamma(2, 100, (depth, 144, 160)).astype(np.float32)
    ours = 2 * geometry(volume, (32, 128, 128)).forward(volume) - 1
    theirs = preprocess(volume)[0, 0].numpy()
    assert ours.shape == theirs.shape == (32, 128, 128)
    assert parity.relative(ours, theirs, 1.0) < 1e-6
    if depth < 32:
        assert np.all(ours[:6] == -1)
        assert np.all(theirs[:6] == -1)


def test_range_alone():
    """DDM's division by the standard deviation cancels out."""
    volume = np.random.default_rng(1).gamma(2, 100, (8, 16, 24)).astype(np.float32)
    ours = geometry(volume, volume.shape).forward(volume)
    assert parity.relative(ours, scale(volume), 1.0) < 1e-6
