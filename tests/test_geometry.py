import dataclasses
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mstg_jax.data.acdc import DataError, Patient, find_patients, read_patient
from mstg_jax.data.geometry import Geometry, heart_centre

sizes = st.integers(1, 24)
spacings = st.floats(0.7, 10)


def patient_of(frames: np.ndarray, spacing, labels=None) -> Patient:
    header = nib.Nifti1Header()
    return Patient(
        "patient001",
        Path(),
        None,
        0,
        len(frames) - 1,
        frames,
        labels or {},
        spacing,
        header,
        np.eye(4),
    )


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any two grids, the crop anywhere near the image's centre; perhaps with nothing in view."""
    shape = draw(st.tuples(sizes, sizes, sizes))
    centre = tuple((n - 1) / 2 + draw(st.floats(-2, 2)) for n in shape)
    return Geometry(
        native_shape=shape,
        native_spacing=draw(st.tuples(spacings, spacings, spacings)),
        centre=centre,
        spacing=draw(st.tuples(spacings, spacings, spacings)),
        size=draw(st.tuples(sizes, sizes, sizes)),
        low=draw(st.floats(-100, 100)),
        high=draw(st.floats(200, 4000)),
    )


def around(shape, spacing, size, native_spacing) -> Geometry:
    centre = tuple((n - 1) / 2 for n in shape)
    return Geometry(shape, native_spacing, centre, spacing, size, 0.0, 1.0)


def there_and_back(geometry: Geometry, native: np.ndarray) -> np.ndarray:
    return back(geometry, geometry.forward(native))


def back(geometry: Geometry, model: np.ndarray) -> np.ndarray:
    """Whole images of the model's grid; beyond its crop they are `low`."""
    return geometry.inverse_change(model) + np.float32(geometry.low)


def random_volumes(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


@given(geometries())
@settings(max_examples=40, deadline=None)
def test_shapes_and_types(geometry: Geometry):
    native = random_volumes((2, *geometry.native_shape))
    model = geometry.forward(native)
    assert (model.shape, model.dtype) == ((2, *geometry.size), np.float32)
    again = back(geometry, model)
    assert (again.shape, again.dtype) == (native.shape, np.float32)
    assert np.isfinite(again).all()
    labels = (native * 4).astype(np.uint8)
    there = geometry.forward_labels(labels)
    assert (there.shape, there.dtype) == (model.shape, np.uint8)
    assert geometry.inverse_labels(there).shape == native.shape
    assert geometry.inverse_labels(there).dtype == np.uint8
    flow = geometry.inverse_flow(np.zeros((2, *geometry.size, 3), np.float32))
    assert (flow.shape, flow.dtype) == ((*native.shape, 3), np.float32)


@given(geometries())
@settings(max_examples=40, deadline=None)
def test_forward_is_scipys_affine_transform(geometry: Geometry):
    native = random_volumes(geometry.native_shape) * 1000
    offset = np.array(geometry.centre) - geometry.scale * (np.array(geometry.size) - 1) / 2
    expected = ndimage.affine_transform(
        native, geometry.scale, offset, geometry.size, order=1, mode="nearest"
    )
    expected = (expected - geometry.low) / (geometry.high - geometry.low)
    model = geometry.forward(native)
    np.testing.assert_allclose(model, np.where(geometry.fov(), expected, 0), atol=2e-4, rtol=0)
    assert not model[~geometry.fov()].any()


@given(geometries())
@settings(max_examples=40, deadline=None)
def test_a_constant_stays_constant(geometry: Geometry):
    value = geometry.low + 0.25 * (geometry.high - geometry.low)
    assume(geometry.fov().any())
    model = geometry.forward(np.full(geometry.native_shape, value, np.float32))
    np.testing.assert_allclose(model[geometry.fov()], 0.25, atol=1e-4)
    again = back(geometry, model)
    np.testing.assert_allclose(again[geometry.covered()], value, atol=1e-3 * geometry.high)
    ones = np.ones(geometry.native_shape, np.uint8)
    assert np.array_equal(geometry.forward_labels(ones), geometry.fov())


@given(st.tuples(sizes, sizes, sizes), st.tuples(spacings, spacings, spacings))
@settings(max_examples=30, deadline=None)
def test_identity_when_the_grids_are_equal(shape, spacing):
    geometry = around(shape, spacing, shape, spacing)
    native = random_volumes((2, *shape))
    assert np.array_equal(geometry.forward(native), native)
    assert np.array_equal(geometry.inverse_change(native), native)
    labels = (native * 4).astype(np.uint8)
    assert np.array_equal(geometry.forward_labels(labels), labels)
    assert np.array_equal(geometry.inverse_labels(labels), labels)
    flow = random_volumes((*shape, 3))
    assert np.array_equal(geometry.inverse_flow(flow), flow)
    assert geometry.fov().all()
    assert geometry.covered().all()


@pytest.mark.parametrize(
    ("spacing", "bound"),
    [((3.15, 1.5, 1.5), 0.03), ((10.0, 1.5, 1.5), 0.03), ((3.15, 2.0, 2.0), 0.04)],
)
def test_smooth_images_come_back(spacing, bound: float):
    """Waves of 40 mm in plane and 120 mm across, range 1: errors 0.018, 0.018, 0.035 measured."""
    shape, native = (8, 90, 80), (10.0, 1.4, 1.6)
    geometry = around(shape, spacing, (32, 128, 128), native)
    d, h, w = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(shape, native, strict=True)), indexing="ij"
    )
    volume = np.sin(2 * np.pi * d / 120) * np.sin(2 * np.pi * h / 40) * np.cos(2 * np.pi * w / 40)
    volume = (0.5 + 0.5 * volume).astype(np.float32)
    error = there_and_back(geometry, volume) - volume
    assert geometry.covered().all()
    assert np.abs(error).max() < bound


def test_finer_grids_give_everything_back():
    """Least squares undoes the interpolation where the model has more voxels than the image."""
    geometry = around((7, 20, 18), (3.15, 0.7, 0.7), (32, 48, 48), (10.0, 1.4, 1.6))
    native = random_volumes((7, 20, 18))
    np.testing.assert_allclose(there_and_back(geometry, native), native, atol=1e-5)


@given(geometries())
@settings(max_examples=30, deadline=None)
def test_padding_has_no_influence_on_the_inverse(geometry: Geometry):
    model = random_volumes(geometry.size)
    padded = np.where(geometry.fov(), model, 100).astype(np.float32)
    assert np.array_equal(geometry.inverse_change(model), geometry.inverse_change(padded))


def test_what_the_grid_does_not_hold_is_blended():
    """Noise between its voxels and beyond its crop comes back: of blended frames all of it."""
    geometry = around((4, 30, 30), (10.0, 1.5, 1.5), (4, 10, 10), (10.0, 3.0, 2.0))
    geometry = dataclasses.replace(geometry, low=-3.0, high=5.0)
    ends, gammas = random_volumes((2, 4, 30, 30)), np.array([0, 0.25, 1], np.float32)
    share = gammas[:, None, None, None]
    blend = (1 - share) * ends[0] + share * ends[1]
    first, last = geometry.forward(ends)
    frames = (1 - share) * first + share * last
    np.testing.assert_allclose(geometry.inverse(frames, ends, gammas), blend, atol=1e-6)
    assert np.array_equal(geometry.inverse(frames, ends, gammas)[[0, 2]], ends)
    outside = ~geometry.covered()
    assert 0 < outside.mean() < 1
    brighter = geometry.inverse(frames + 0.5, ends, gammas)
    np.testing.assert_allclose(
        brighter - blend, np.where(outside, 0, 4)[None] + 0 * blend, atol=1e-5
    )
    assert np.array_equal(brighter[:, outside], blend[:, outside])
    assert not geometry.inverse_labels(np.ones((4, 10, 10), np.uint8))[outside].any()
    assert not geometry.inverse_flow(np.ones((4, 10, 10, 3), np.float32))[outside].any()


def test_field_of_view_reaches_half_a_voxel_beyond_the_outer_centres():
    geometry = around((4, 10, 10), (10.0, 1.0, 1.0), (6, 40, 40), (10.0, 2.0, 2.0))
    assert geometry.fov().any((1, 2)).tolist() == [False, True, True, True, True, False]
    assert geometry.fov().any((0, 1)).sum() == 20  # 10 voxels of 2 mm


def test_flow_moves_the_same_points_on_both_grids():
    """A voxel and where its displacement points to are the same places in mm on either grid."""
    geometry = around((6, 40, 40), (3.15, 1.5, 1.5), (32, 64, 64), (10.0, 1.2, 1.9))
    grid = np.stack(np.meshgrid(*map(np.arange, geometry.size), indexing="ij"), -1)
    flow = (0.05 * (grid - (np.array(geometry.size) - 1) / 2)).astype(np.float32)  # 5 % dilation
    native = geometry.inverse_flow(flow)
    places = np.stack(np.meshgrid(*map(np.arange, (6, 40, 40)), indexing="ij"), -1)
    np.testing.assert_allclose(native, 0.05 * (places - np.array(geometry.centre)), atol=0.06)
    inner = native[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(
        inner, 0.05 * (places - np.array(geometry.centre))[1:-1, 1:-1, 1:-1], atol=1e-5
    )


def test_intensities_are_scaled_by_the_range_of_ed_and_not_clipped():
    frames = random_volumes((3, 4, 20, 20)) * 100 + 50
    frames[1] *= 3
    patient = patient_of(frames, (10.0, 1.5, 1.5))
    geometry = Geometry.fit(patient, (10.0, 1.5, 1.5), (4, 20, 20), "centre")
    assert (geometry.low, geometry.high) == (frames[0].min(), frames[0].max())
    model = geometry.forward(frames)
    assert (model[0].min(), model[0].max()) == (0, 1)
    assert model[1].max() > 2
    np.testing.assert_allclose(back(geometry, model), frames, rtol=1e-5)


def test_heart_crop_follows_the_labels_or_what_moves():
    frames = np.ones((4, 5, 40, 40), np.float32)
    frames[:, 0, 0, 0] = 0
    for t in range(4):
        frames[t, 1:4, 5:12, 25:34] += t
    moving = patient_of(frames, (10.0, 1.5, 1.5))
    assert heart_centre(moving) == pytest.approx((2, 8, 29))
    labels = np.zeros((5, 40, 40), np.uint8)
    assert heart_centre(patient_of(frames, moving.spacing, {0: labels})) == pytest.approx(
        (2, 8, 29)
    )
    labels[2, 30, 10] = 3
    labelled = patient_of(frames, moving.spacing, {0: labels})
    assert heart_centre(labelled) == (2, 30, 10)
    geometry = Geometry.fit(labelled, (10.0, 1.5, 1.5), (5, 11, 11), "heart")
    assert np.argwhere(geometry.forward_labels(labels)).tolist() == [[2, 5, 5]]


def test_an_image_that_falls_between_the_models_voxels_is_refused():
    patient = patient_of(random_volumes((2, 1, 20, 20)), (2.0, 1.5, 1.5))
    with pytest.raises(DataError, match="patient001: no voxel of the model's grid"):
        Geometry.fit(patient, (3.15, 1.5, 1.5), (4, 16, 16), "centre")


@pytest.mark.skipif("MSTG_ACDC_ROOT" not in os.environ, reason="MSTG_ACDC_ROOT is not set")
def test_real_images_come_back():
    """10 patients at the paper's spacing: 0.0192 of the range measured (RMS), the worst 0.0244."""
    folders = find_patients(os.environ["MSTG_ACDC_ROOT"])["testing"][:10]
    errors = []
    for patient in map(read_patient, folders):
        geometry = Geometry.fit(patient, (3.15, 1.5, 1.5), (32, 128, 128), "centre")
        ed = patient.frames[patient.ed]
        error = (there_and_back(geometry, ed) - ed) / (geometry.high - geometry.low)
        errors.append(np.sqrt((error[geometry.covered()] ** 2).mean()))
    assert np.mean(errors) < 0.021
    assert max(errors) < 0.026
