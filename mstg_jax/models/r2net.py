"""R2Net's networks: a U-Net to a first velocity, then Lipschitz residual blocks that move it on."""

from functools import partial
from itertools import pairwise

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import R2NetConfig
from mstg_jax.models.conv3d import conv3d
from mstg_jax.models.init import he
from mstg_jax.models.layers import Conv3d
from mstg_jax.shapes import Flow, Volume

SLOPE = 0.2
ENCODER = (16, 32, 32, 32)
WIDE, NARROW, RAISED = 32, 16, 8


class R2Net(nnx.Module):
    """ED and ES (b d h w 2) -> the flows after 0, 1, ... blocks, each (b d h w 3), in voxels.

    d, h and w must be multiples of 16. The last flow is the deformation.
    """

    def __init__(self, config: R2NetConfig, *, rng: np.random.Generator):
        self.core = Core(rng=rng)
        self.first = Conv3d(3, 3, use_bias=False, init=he, rng=rng)
        iterations = config.power_iterations
        self.blocks = nnx.List([LipschitzBlock(iterations, rng=rng) for _ in range(config.blocks)])

    def __call__(self, x: Volume) -> list[Flow]:
        flows = [self.first(self.core(x)) / 2]
        for block in self.blocks:
            flows.append(block(flows[-1]))
        return flows


class Core(nnx.Module):
    """The U-Net: (b d h w 2) -> (b d h w 3); leaky ReLUs, but not after transposed convolutions."""

    def __init__(self, *, rng: np.random.Generator):
        conv = partial(Conv3d, init=he, rng=rng)
        widths = (2, *ENCODER)
        self.encoder = nnx.List([conv(ci, co, resize="half") for ci, co in pairwise(widths)])
        skips = widths[-2:0:-1]
        self.decoder = nnx.List([conv(ci, WIDE) for ci in (WIDE, *(RAISED + s for s in skips))])
        self.narrow = conv(WIDE, NARROW)
        self.up = nnx.List(
            [conv(ci, RAISED, resize="transpose") for ci in (*(WIDE for _ in skips), NARROW)]
        )
        self.out = nnx.List([conv(RAISED + 2, NARROW), conv(NARROW, 3)])

    def __call__(self, x: Volume) -> Flow:
        kept = [x]
        for conv in self.encoder:
            kept.append(_activate(conv(kept[-1])))
        x = kept.pop()
        for conv, up in zip(self.decoder, self.up, strict=True):
            x = _activate(conv(x))
            if up is self.up[-1]:
                x = _activate(self.narrow(x))
            x = jnp.concatenate([up(x), kept.pop()], axis=-1)
        for conv in self.out:
            x = _activate(conv(x))
        return x


class LipschitzBlock(nnx.Module):
    """v -> v + tanh(conv1(leaky ReLU(conv3(v)))) / 2 with spectrally normalised kernels, no biases.

    The normalised matrix is the kernel flattened to (taps and ci, co), as published. A convolution
    of k^3 taps can stretch by k^1.5 times its norm, so the residual's Lipschitz constant is at most
    27^0.5 / 2 = 2.6.
    """

    def __init__(self, iterations: int, *, rng: np.random.Generator):
        self.iterations = iterations
        self.kernel3 = nnx.Param(jax.device_put(he(rng, (3, 3, 3, 3, 3))))
        self.kernel1 = nnx.Param(jax.device_put(he(rng, (1, 1, 1, 3, 3))))

    def __call__(self, v: Flow) -> Flow:
        kernel3, kernel1 = (
            spectrally_normalised(k[...], self.iterations) for k in (self.kernel3, self.kernel1)
        )
        return v + jnp.tanh(conv3d(_activate(conv3d(v, kernel3)), kernel1)) / 2


def spectrally_normalised(
    kernel: Float[Array, "k k k ci co"], iterations: int
) -> Float[Array, "k k k ci co"]:
    """The kernel over the largest singular value of its matrix (k k k ci, co) (Miyato et al. 2018).

    Power iteration on the host's fixed start: no state is kept from step to step. As there, the
    singular vectors count as constants in the gradient.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    gram = lax.stop_gradient(matrix.T @ matrix)
    right = jnp.asarray(np.random.default_rng(0).standard_normal(len(gram)), kernel.dtype)
    for _ in range(iterations):
        right = gram @ right
        right = right / jnp.linalg.norm(right)
    left = lax.stop_gradient(matrix) @ right
    return kernel / (left / jnp.linalg.norm(left) @ matrix @ right)


def _activate(x: Volume) -> Volume:
    return nnx.leaky_relu(x, SLOPE)
