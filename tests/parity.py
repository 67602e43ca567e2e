"""Pairs of one of our models and its PyTorch reference, with the same weights."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from mstg_jax import interop
from mstg_jax.config import PRESETS, Config
from mstg_jax.methods import make_method, new_model
from mstg_jax.methods.base import Method

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch safetensors")
from torch_reference import ddm, mstg  # noqa: E402  torch must be there

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}  # of the largest value
DTYPES = tuple(TOLERANCE)
errors: list[tuple[str, float]] = []  # of the test that runs: what was compared, how far it was off


def in_type(dtype: str) -> AbstractContextManager:
    """JAX with 64 bits where they are wanted."""
    return jax.enable_x64(dtype == "float64")


@dataclass(frozen=True)
class Pair:
    """`params` and `reference` hold the same weights; use it inside `in_type(dtype)`."""

    config: Config
    method: Method
    graph: nnx.GraphDef
    params: nnx.State
    reference: Any
    dtype: str

    def model(self, params: nnx.State | None = None) -> Any:
        return nnx.merge(self.graph, self.params if params is None else params)

    def named(self, params: nnx.State) -> dict[str, np.ndarray]:
        """Parameters, or their gradients, by the names of the reference."""
        buffers = dict(self.reference.named_buffers())
        tensors = interop.to_torch(params, self.config)
        return {name: x for name, x in tensors.items() if name not in buffers}

    def gradients(self) -> dict[str, np.ndarray]:
        """Of the reference, after backward()."""
        return {name: p.grad.numpy() for name, p in self.reference.named_parameters()}


def make_pair(preset: str, dtype: str, **changes: Any) -> Pair:
    """Of a preset with settings of its model changed. Nothing is at its initial value."""
    config = PRESETS[preset][1]
    config = replace(
        config,
        data=replace(config.data, size=(4, 8, 8)),  # the reference goes token by token
        model=replace(config.model, **changes),
    )
    method = make_method(config)
    graph, params = new_model(method, seed=0)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + 0.1 * rng.standard_normal(x.shape), dtype), params
    )
    model, diffusion = config.model, config.diffusion
    if config.method == "ddm":
        unet = ddm.UNet(
            3, 1, model.channels, depth=model.depth, time_dim=model.time_dim,
            groups=model.groups, heads=model.heads,
        )  # fmt: skip
        reference = ddm.DeformableDiffusion(
            unet, ddm.DeformationNet(model.deformation_channels), schedule=diffusion.schedule,
            steps=diffusion.steps, beta_start=diffusion.beta_start, beta_end=diffusion.beta_end,
        )  # fmt: skip
    else:
        reference = mstg.deformable(model, diffusion)
    reference = reference.to(getattr(torch, dtype))
    tensors = interop.to_torch(params, config)
    if dtype == "float64":  # the file format's buffers are float32: keep the reference's own
        tensors |= {name: x.numpy() for name, x in reference.named_buffers()}
    state = {name: torch.tensor(x) for name, x in tensors.items()}
    reference.load_state_dict(state, strict=True)
    return Pair(config, method, graph, params, reference, dtype)


def images(config: Config, count: int, dtype: str, batch: int = 1) -> list[np.ndarray]:
    """Volumes (b d h w 1) in [0, 1], smooth enough to warp."""
    rng = np.random.default_rng(2)
    depth, height, width = (np.linspace(0, 2 * np.pi, n) for n in config.data.size)
    out = []
    for _ in range(count):
        a, b, c, *shift = rng.uniform(1, 2, 6)
        wave = (
            np.sin(a * depth + shift[0])[:, None, None]
            + np.sin(b * height + shift[1])[None, :, None]
            + np.sin(c * width + shift[2])[None, None, :]
        )
        volume = (wave + 3) / 6 + 0.02 * rng.standard_normal((batch, *config.data.size))
        out.append(np.clip(volume, 0, 1)[..., None].astype(dtype))
    return out


def first(x: np.ndarray) -> Any:
    """(b ... c) -> a tensor (b c ...)."""
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy())


def last(x: Any) -> np.ndarray:
    """A tensor (b c ...) -> (b ... c)."""
    return np.moveaxis(x.detach().numpy(), 1, -1)


def relative(got: Any, wanted: Any, least: float = 1e-30, what: str = "output") -> float:
    """The largest difference as a share of the largest value, or of `least`; kept in `errors`."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    error = float(np.max(np.abs(got - wanted)) / max(np.max(np.abs(wanted)), least))
    errors.append((what, error))
    return error


def each(got: Any, wanted: Any, what: str) -> float:
    """The largest relative difference of any element."""
    return max(relative(a, b, what=what) for a, b in zip(got, wanted, strict=True))


def assert_close(
    got: Any, wanted: Any, dtype: str, least: float = 1e-30, what: str = "output"
) -> None:
    assert relative(got, wanted, least, what) < TOLERANCE[dtype]


def assert_all_close(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], dtype: str) -> None:
    """Gradients of a network, each as a share of its own largest value, or of a thousandth of the
    largest of all. In float32 of the latter: gradients that are 0 in exact arithmetic (those of a
    bias before a normalisation, say) are 1e-7 of it in both programs, with no digit in common."""
    assert got.keys() == wanted.keys()
    largest = max(np.max(np.abs(x)) for x in wanted.values())
    least = largest * (1.0 if dtype == "float32" else 1e-3)
    off = {name: relative(got[name], x, least, "gradient") for name, x in wanted.items()}
    assert not {name: e for name, e in off.items() if not e < TOLERANCE[dtype]}
