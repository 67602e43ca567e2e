"""DDM's diffusion around its networks: schedule, losses, inference, preprocessing."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Volume = Float[Tensor, "b c d h w"]
Scalar = Float[Tensor, ""]


def betas(schedule: str, steps: int, start: float, end: float) -> Float[np.ndarray, " T"]:
    """Variance of the noise added at each step, float64."""
    if schedule == "linear":
        return np.linspace(start, end, steps)
    if schedule == "quad":
        return np.square(np.linspace(np.sqrt(start), np.sqrt(end), steps))
    if schedule in ("const", "warmup10", "warmup50"):
        warm = int(steps * {"const": 0.0, "warmup10": 0.1, "warmup50": 0.5}[schedule])
        return np.append(np.linspace(start, end, warm), np.full(steps - warm, end))
    if schedule == "jsd":
        return np.reciprocal(np.arange(steps, 0, -1, dtype=np.float64))
    if schedule == "cosine":
        level = np.cos((np.linspace(0, 1, steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.clip(1 - level[1:] / level[:-1], None, 0.999)
    raise ValueError(f"unknown schedule {schedule}")


def buffers(
    schedule: str, steps: int, start: float, end: float
) -> dict[str, Float[np.ndarray, " T"]]:
    """The constants that DDM's checkpoints hold, in float64, under their names there."""
    beta = betas(schedule, steps, start, end)
    bar = np.cumprod(1 - beta)
    before = np.append(1.0, bar[:-1])
    with np.errstate(divide="ignore"):  # jsd ends with no signal left
        variance = beta * (1 - before) / (1 - bar)
        return {
            "betas": beta,
            "alphas_cumprod": bar,
            "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": np.sqrt(bar),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - bar),
            "log_one_minus_alphas_cumprod": np.log(1 - bar),
            "sqrt_recip_alphas_cumprod": np.sqrt(1 / bar),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / bar - 1),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
            "posterior_mean_coef1": beta * np.sqrt(before) / (1 - bar),
            "posterior_mean_coef2": (1 - before) * np.sqrt(1 - beta) / (1 - bar),
        }


def q_sample(model: Any, x0: Volume, t: Int[Tensor, " b"], noise: Volume) -> Volume:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise, with the buffers of `model`."""
    signal = model.sqrt_alphas_cumprod[t][:, None, None, None, None]
    sigma = model.sqrt_one_minus_alphas_cumprod[t][:, None, None, None, None]
    return signal * x0 + sigma * noise


def local_ncc(x: Volume, y: Volume, window: int = 9) -> Scalar:
    """Mean squared local correlation of images (b 1 d h w) in [0, 1]; DDM's loss is its negative.

    Sums over a cube of `window` voxels with zeros beyond the border, where the count stays
    window^3; 1e-5 is added to the product of the two sums of squared deviations. Those are not
    kept from falling below 0 by rounding.
    """
    count = window**3

    def total(image: Volume) -> Volume:
        return F.conv3d(image, image.new_ones(1, 1, *(window,) * 3), padding=window // 2)

    sum_x, sum_y = total(x), total(y)
    cross = total(x * y) - sum_x * sum_y / count
    spread_x = total(x * x) - sum_x * sum_x / count
    spread_y = total(y * y) - sum_y * sum_y / count
    return (cross.square() / (spread_x * spread_y + 1e-5)).mean()


def smoothness(flow: Float[Tensor, "b 3 d h w"]) -> Scalar:
    """Mean over the three axes of the mean squared forward difference."""
    return torch.stack([flow.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).mean()


class Losses(NamedTuple):
    """total = noise - ncc_weight * ncc + smooth_weight * smooth."""

    total: Scalar
    noise: Scalar
    ncc: Scalar
    smooth: Scalar


def losses(
    model: Any,
    ed: Volume,
    es: Volume,
    t: Int[Tensor, " b"],
    noise: Volume,
    *,
    ncc_weight: float = 20.0,
    smooth_weight: float = 20.0,
) -> Losses:
    """DDM's training loss for given steps and noise; ed, es (b 1 d h w) in [-1, 1]."""
    code = model.code(ed, es, q_sample(model, es, t, noise), t)
    warped, flow = model.field_fn(torch.cat([ed, code], dim=1))
    error = (noise - code).square().mean()
    ncc, smooth = local_ncc(warped, (es + 1) / 2), smoothness(flow)
    return Losses(error - ncc_weight * ncc + smooth_weight * smooth, error, ncc, smooth)


class Sequence(NamedTuple):
    """frames in [0, 1], flow from ED in voxels, and the code before it is scaled."""

    frames: Float[Tensor, "b t 1 d h w"]
    flow: Float[Tensor, "b t 3 d h w"]
    code: Float[Tensor, "b 1 d h w"]


@torch.no_grad()
def generate(model: Any, ed: Volume, es: Volume, gammas: Float[Tensor, "b t"]) -> Sequence:
    """The frames at `gammas`: one pass at t = 0 with x_t := ES, then its code times gamma.

    ed, es are (b 1 d h w) in [-1, 1]. DDM's gammas are linspace(0, 1, frames).
    """
    code = model.code(ed, es, es, torch.zeros(len(ed), dtype=torch.long, device=ed.device))
    frames, flows = [], []
    for gamma in gammas.unbind(1):
        scaled = gamma[:, None, None, None, None] * code
        frame, flow = model.field_fn(torch.cat([ed, scaled], dim=1))
        frames.append(frame)
        flows.append(flow)
    return Sequence(torch.stack(frames, dim=1), torch.stack(flows, dim=1), code)


def preprocess(
    volume: Float[np.ndarray, "d h w"], size: tuple[int, int, int] = (32, 128, 128)
) -> Float[Tensor, "1 1 D H W"]:
    """One volume, already at 3.15 x 1.5 x 1.5 mm, as DDM's networks get it, in [-1, 1].

    The public code has no script for the resampling before. mstg_jax/data/geometry.py differs:

    range       here each volume's own, before the crop; there ED's for all frames, so that their
                intensities stay comparable, and a frame may leave [0, 1]
    position    here whole voxels, cut to integers; there the grids' centres coincide, half a voxel
                further (interpolated) where the difference of the sizes is odd
    padding     -1 in both; here along d only, there also in plane
    resampling  there in the same step: trilinear, from the native grid
    """
    x = scale(volume)
    depth, *plane = x.shape
    if plane[0] < size[1] or plane[1] < size[2]:
        raise ValueError(f"{plane} voxels in plane, but the crop has {size[1:]}")
    d, h, w = (abs(have - wanted) // 2 for have, wanted in zip(x.shape, size, strict=True))
    x = x[:, h : h + size[1], w : w + size[2]]
    if depth >= size[0]:
        x = x[d : d + size[0]]
    else:
        x = np.pad(x, [(d, size[0] - depth - d), (0, 0), (0, 0)])
    return 2 * torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None] - 1


def scale(volume: Float[np.ndarray, "d h w"]) -> Float[np.ndarray, "d h w"]:
    """To [0, 1] by the volume's own range. The division by the standard deviation cancels out."""
    x = volume - volume.min()
    x = x / x.std()
    x = x - x.min()
    return x / x.max()
