"""The forms of the convolutions against plain definitions, and which platform gets which."""

from functools import partial
from itertools import product

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from mstg_jax.models.conv3d import (
    _spread,
    conv3d,
    conv3d_nearest_twice,
    conv3d_transpose_twice,
)


def native(x, kernel, *, stride=1):
    padding = [((kernel.shape[0] - 1) // 2,) * 2] * 3
    names = ("NDHWC", "DHWIO", "NDHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 3, padding, dimension_numbers=names)


def repeated(x, kernel):
    for axis in (1, 2, 3):
        x = jnp.repeat(x, 2, axis=axis)
    return native(x, kernel)


def scattered(x, kernel):
    """torch's ConvTranspose3d: input i goes through tap k to output 2 i - 1 + k."""
    batch, *space, _ = x.shape
    y = jnp.zeros((batch, *(2 * n + 2 for n in space), kernel.shape[-1]))
    for k in product(range(kernel.shape[0]), repeat=3):
        at = tuple(slice(i, i + 2 * n, 2) for i, n in zip(k, space, strict=True))
        y = y.at[(slice(None), *at)].add(x @ kernel[k])
    return y[:, 1:-1, 1:-1, 1:-1]


half, native_half = partial(conv3d, stride=2), partial(native, stride=2)
CASES = {
    "odd channels": (conv3d, native, (2, 4, 6, 5, 3), (3, 5)),
    "two depths at once": (conv3d, native, (1, 4, 6, 4, 8), (3, 7)),
    "odd depth": (conv3d, native, (1, 5, 4, 6, 8), (3, 8)),
    "five taps": (conv3d, native, (1, 6, 5, 6, 9), (5, 3)),
    "one tap": (conv3d, native, (2, 3, 4, 5, 3), (1, 4)),
    "on a TPU": (_spread, native, (2, 3, 6, 5, 3), (3, 5)),
    "five taps on a TPU": (_spread, native, (1, 6, 5, 6, 2), (5, 3)),
    "half": (half, native_half, (2, 4, 6, 8, 3), (3, 5)),
    "half of two": (half, native_half, (1, 2, 2, 2, 8), (3, 4)),
    "half, four taps": (half, native_half, (1, 4, 6, 2, 3), (4, 5)),
    "nearest": (conv3d_nearest_twice, repeated, (2, 2, 3, 4, 3), (3, 5)),
    "nearest of one": (conv3d_nearest_twice, repeated, (1, 1, 1, 2, 8), (3, 8)),
    "transpose": (conv3d_transpose_twice, scattered, (2, 2, 3, 4, 3), (3, 5)),
    "transpose, four taps": (conv3d_transpose_twice, scattered, (2, 1, 3, 4, 3), (4, 5)),
    "transpose of one": (conv3d_transpose_twice, scattered, (1, 1, 2, 1, 8), (3, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case):
    form, plain, shape, (taps, co) = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    kernel = rng.standard_normal((taps,) * 3 + (shape[-1], co)).astype(np.float32)
    slope = rng.standard_normal(jax.eval_shape(plain, x, kernel).shape).astype(np.float32)

    def everything(function):
        y, pull = jax.vjp(function, jnp.asarray(x), jnp.asarray(kernel))
        return y, *pull(jnp.asarray(slope))

    got, wanted = (jax.jit(everything, static_argnums=0)(f) for f in (form, plain))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("function", [conv3d, half, conv3d_nearest_twice, conv3d_transpose_twice])
def test_the_platform_chooses_the_form(function):
    """3D convolutions on GPUs, 2D ones or a matrix product on CPU, 2D ones on TPUs where the size
    stays or pixels are repeated; backward too."""

    def gradients(x, kernel):
        return jax.grad(lambda x, k: jnp.sum(jnp.sin(function(x, k))), argnums=(0, 1))(x, kernel)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 4, 4, 4, 3), (3, 3, 3, 3, 2))]
    for f, count in ((function, 1), (gradients, 3)):
        traced = jax.jit(f).trace(*shapes)
        text = {
            platform: traced.lower(lowering_platforms=(platform,)).as_text()
            for platform in ("cpu", "cuda", "tpu")
        }
        for platform in ("cuda", "tpu"):
            convolutions = text[platform].count("stablehlo.convolution")
            assert convolutions >= count, platform
        assert spatial_dimensions(text["cuda"]) == {3}
        wide = function in (half, conv3d_transpose_twice)
        assert spatial_dimensions(text["tpu"]) == ({3} if wide else {2})
        assert spatial_dimensions(text["cpu"]) <= {2}
        assert "dot_general" in text["cpu"] or spatial_dimensions(text["cpu"])


def spatial_dimensions(text):
    """How many spatial axes the convolutions of a program have: `dim_numbers = [b, 0, 1, f]x`."""
    starts = [line.split("dim_numbers = ", 1)[1] for line in text.splitlines() if "dim_num" in line]
    return {len(start[: start.index("]")].split(",")) - 2 for start in starts}
