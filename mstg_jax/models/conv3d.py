"""3D convolutions in the form that is fast on the platform being lowered for.

XLA's 3D convolution on CPU is slow, its strided backward worse. There the same sums are written as
2D convolutions: the depth taps stand side by side on the channel axis, depth on the batch axis.
With few output channels, two depth positions are made at once, which turns a thin matrix product
into a wider one: 8 -> 8 channels on 32 x 128 x 128, forward + both gradients, took 227 ms against
397 ms one by one (2 cores, jax 0.10.2). The convolutions that double the size never visit the zeros
or copies in between: they are one matrix product over the small input.

On a TPU the depth taps stand side by side on the output's channels (`_spread`). There arrays are
laid out in tiles with 128 channels, of which our thin convolutions fill few, so that what counts is
how often they are read: forward and gradients of 8 -> 8 channels on 32 x 128 x 128 move 0.94 GB
instead of 2.77, of 16 -> 16 on half the size 0.35 instead of 0.56, and compile in a third of the
time (libtpu 0.0.42, v5e, as its compiler counts; on no device).
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float

from mstg_jax.models.recompute import after

Input = Float[Array, "b d h w ci"]
Kernel = Float[Array, "q k k ci co"]
Output = Float[Array, "b e i v co"]
Form = Callable[[Any, Any], Any]
Gradients = Callable[[Any, Any, Any], tuple[Any, Any]]

# Per axis, [p, o, k]: does kernel tap k take output parity p to the input at offset o (-1, 0, 1)?
NEAREST_TAPS = np.array(
    [[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]], np.float32
)
# The same for transposed convolutions, by their number of taps.
TRANSPOSE_TAPS = {
    3: np.array([[[0, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1], [1, 0, 0]]], np.float32),
    4: np.array(
        [[[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]],
        np.float32,
    ),
}


def by_platform(
    cpu: Form, native: Form, cpu_gradients: Gradients | None = None, tpu: Form | None = None
) -> Form:
    """One of the forms of f(x, kernel), chosen when the computation is lowered.

    The gradient chooses again, so that no form has to save anything for the other one.
    """

    tpu = tpu or native

    @jax.custom_vjp
    def f(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, cpu=cpu, tpu=tpu, default=native)

    def backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        return lax.platform_dependent(
            *saved,
            g,
            cpu=partial(_later, cpu_gradients or partial(_gradients, cpu)),
            tpu=partial(_gradients, tpu),
            default=partial(_gradients, native),
        )

    f.defvjp(lambda x, kernel: (f(x, kernel), (x, kernel)), backward)
    return f


def _later(gradients: Gradients, x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
    """Else x is laid out for the kernel's gradient in the forward pass already, and kept: 1993
    instead of 1593 MB of temporaries in DDM's step at 32 x 128 x 128."""
    return gradients(after(x, g), kernel, g)


def _gradients(form: Form, x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
    return jax.vjp(form, x, kernel)[1](g)


def conv3d(x: Input, kernel: Kernel, *, stride: int = 1) -> Output:
    """Cross-correlation with p = (k - 1) // 2 zeros around, as torch's Conv3d(padding=p).

    x (b d h w ci), kernel (k k k ci co), or (1 k k ci co) for each slice by itself; stride 1 with
    odd k, or 2 where d, h and w are even.
    """
    if kernel.shape[0] == 1 and stride == 1:
        return x @ kernel[0, 0, 0] if kernel.shape[1] == 1 else _by_slice(x, kernel)
    return CONVOLUTIONS[stride](x, kernel)


def conv3d_nearest_twice(x: Input, kernel: Kernel) -> Output:
    """Every voxel repeated once along d, h and w, then `conv3d` with a 3 x 3 x 3 kernel."""
    return _nearest_twice(x, kernel)


def conv3d_transpose_twice(x: Input, kernel: Kernel) -> Output:
    """Transposed convolution to twice the size: torch's ConvTranspose3d(k, stride 2, padding 1,
    output_padding 4 - k), o = 2 i - 1 + tap; kernel (k k k ci co) without flip, k 3 or 4."""
    return _transpose_twice(x, kernel)


def _conv2d(x: Array, kernel: Array, stride: int, padding: list[tuple[int, int]]) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_slice(x: Array, kernel: Array) -> Array:
    """Slices on the batch axis: a 2D convolution is fast on every platform."""
    half = kernel.shape[1] // 2
    y = _conv2d(x.reshape(-1, *x.shape[2:]), kernel[0], 1, [(half, half)] * 2)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def _native(x: Array, kernel: Array, stride: int = 1) -> Array:
    half = (kernel.shape[0] - 1) // 2
    return _native_padded(x, kernel, (half, half), stride=stride)


def _native_padded(
    x: Array, kernel: Array, padding: tuple[int, int], stride: int = 1, dilation: int = 1
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3,
        [padding] * 3,
        lhs_dilation=(dilation,) * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _folded(x: Array, kernel: Array, stride: int = 1) -> Array:
    """`conv3d` as 2D convolutions with the depth taps on the channel axis."""
    batch, depth, *plane, ci = x.shape
    taps, half, co = kernel.shape[0], (kernel.shape[0] - 1) // 2, kernel.shape[-1]
    together = 2 if stride == 1 and co <= 8 <= ci and depth % 2 == 0 else 1
    reach = taps + (together - 1) * stride  # input slices that one group of outputs sees
    step = together * stride
    groups = depth // step

    padded = jnp.pad(x, [(0, 0), (half, half), (0, 0), (0, 0), (0, 0)])
    slices = [padded[:, k : k + (groups - 1) * step + 1 : step] for k in range(reach)]
    folded = jnp.concatenate(slices, axis=-1).reshape(batch * groups, *plane, reach * ci)

    by_depth = jnp.moveaxis(kernel, 0, 2)  # (h w k ci co)
    shifted = [
        jnp.pad(by_depth, [(0, 0), (0, 0), (g, together - 1 - g), (0, 0), (0, 0)])
        for g in range(together)
    ]
    wide = jnp.stack(shifted, axis=-2).reshape(taps, taps, reach * ci, together * co)
    y = _conv2d(folded, wide, stride, [(half, half)] * 2)
    y = y.reshape(batch, groups, *y.shape[1:3], together, co)
    return jnp.moveaxis(y, -2, 2).reshape(batch, groups * together, *y.shape[2:4], co)


def _spread(x: Array, kernel: Array) -> Array:
    """`conv3d` as one 2D convolution with the depth taps side by side on the output's channels.

    What they give is added up over neighbouring slices.
    """
    batch, depth, *plane, ci = x.shape
    taps, half, co = kernel.shape[0], kernel.shape[0] // 2, kernel.shape[-1]
    wide = jnp.moveaxis(kernel, 0, 2).swapaxes(2, 3).reshape(taps, taps, ci, taps * co)
    y = _conv2d(x.reshape(batch * depth, *plane, ci), wide, 1, [(half, half)] * 2)
    y = jnp.pad(y.reshape(batch, depth, *plane, taps, co), [(0, 0), (half, half), *[(0, 0)] * 4])
    return sum(y[:, k : k + depth, :, :, k] for k in range(1, taps)) + y[:, :depth, :, :, 0]


def _same_size(x: Array, kernel: Array) -> Array:
    """The form that moves fewer channels: 24 -> 8 on 32 x 128 x 128 took 688 ms folded, 326 spread.

    (Gradients of the spread form were faster alone, 853 against 1768 ms, but a whole step was 15 %
    slower: there the kernel's is that of `_folded`.)
    """
    ci, co = kernel.shape[-2:]
    return (_spread if ci > co else _folded)(x, kernel)


def _parities(x: Array, kernel: Array, taps: np.ndarray) -> Array:
    """A convolution that doubles d, h and w, as one matrix product over the small input.

    Along each axis an output sees two neighbours of the input: with 3 taps of `TRANSPOSE_TAPS` both
    parities the same two, else the even one the pair before the odd one's. So the pairs of all
    axes, side by side on the channels, meet one matrix with eight outputs, one per parity.
    (As a convolution this has a kernel gradient for which XLA on CPU has no fast path: 0.7 s of a
    step of 1.1 s.)
    """
    batch, *space, ci = x.shape
    co = kernel.shape[-1]
    first = [int(np.flatnonzero(parity.any(-1))[0]) for parity in taps]  # 0 is offset -1
    start = min(first)
    pairs = np.stack([parity[f : f + 2] for parity, f in zip(taps, first, strict=True)])
    positions = [n + first[1] - first[0] for n in space]

    padded = jnp.pad(x, [(0, 0), *[(1 - start, 1)] * 3, (0, 0)])
    seen = [
        padded[:, u : u + positions[0], v : v + positions[1], o : o + positions[2]]
        for u, v, o in product((0, 1), repeat=3)
    ]
    # From the k^3 taps to neighbours (u v o) and parities (p q r) along d, h and w.
    spread = np.einsum("puk,qvl,rom->uvopqrklm", pairs, pairs, pairs).reshape(64, -1)
    wide = jnp.asarray(spread, kernel.dtype) @ kernel.reshape(spread.shape[1], -1)
    wide = jnp.swapaxes(wide.reshape(8, 8, ci, co), 1, 2).reshape(8 * ci, 8 * co)
    y = (jnp.concatenate(seen, axis=-1) @ wide).reshape(batch, *positions, 2, 2, 2, co)

    shift = first[1] - first[0]
    for axis, n in enumerate(space):  # each parity's own positions, beside the axis they refine
        place = 1 + 2 * axis
        parity = place + 3 - axis
        even, odd = (
            lax.index_in_dim(lax.slice_in_dim(y, s, s + n, axis=place), i, parity, keepdims=False)
            for i, s in enumerate((0, shift))
        )
        y = jnp.stack([even, odd], axis=place + 1)
    return y.reshape(batch, *(2 * n for n in space), co)


def nearest_twice(x: Float[Array, "b d h w c"]) -> Float[Array, "b e i v c"]:
    """Every voxel repeated once along d, h and w."""
    b, d, h, w, c = x.shape
    blocks = jnp.broadcast_to(x.reshape(b, d, 1, h, 1, w, 1, c), (b, d, 2, h, 2, w, 2, c))
    return blocks.reshape(b, 2 * d, 2 * h, 2 * w, c)


def _native_transpose(x: Array, kernel: Array) -> Array:
    padding = (kernel.shape[0] - 2, 2)
    return _native_padded(x, kernel[::-1, ::-1, ::-1], padding, dilation=2)


def _transpose(x: Array, kernel: Array) -> Array:
    return _parities(x, kernel, TRANSPOSE_TAPS[kernel.shape[0]])


def _folded_gradients(x: Array, kernel: Array, g: Array, stride: int) -> tuple[Array, Array]:
    """The input's gradient as the convolution of g that it is. With stride 1 XLA's transpose of
    `_folded` adds padded copies, each larger than x (166 MB more in DDM's step); with stride 2 it
    would visit the zeros in between."""
    (to_kernel,) = jax.vjp(lambda k: _folded(x, k, stride), kernel)[1](g)
    swapped = jnp.swapaxes(kernel, -1, -2)
    if stride == 2:
        return _transpose(g, swapped), to_kernel
    return _same_size(g, swapped[::-1, ::-1, ::-1]), to_kernel


CONVOLUTIONS = {
    1: by_platform(
        _same_size, _native, cpu_gradients=partial(_folded_gradients, stride=1), tpu=_spread
    ),
    2: by_platform(
        partial(_folded, stride=2),
        partial(_native, stride=2),
        cpu_gradients=partial(_folded_gradients, stride=2),
    ),
}
_nearest_twice = by_platform(
    partial(_parities, taps=NEAREST_TAPS),
    lambda x, kernel: _native(nearest_twice(x), kernel),
    tpu=lambda x, kernel: _spread(nearest_twice(x), kernel),
)
_transpose_twice = by_platform(_transpose, _native_transpose)
