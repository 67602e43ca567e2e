"""Our networks beside the PyTorch reference with the same weights: outputs and all gradients."""

import jax
import numpy as np
import parity
import pytest
from flax import nnx
from jax import numpy as jnp
from parity import assert_all_close, assert_close, first, images, in_type, last, make_pair, torch
from torch_reference import ddm as reference_ddm
from torch_reference import mamba as reference_mamba

from mstg_jax import interop
from mstg_jax.models.deformation import warp
from mstg_jax.models.layers import TimeEmbedding
from mstg_jax.models.mamba import Mamba

both = pytest.mark.parametrize("dtype", parity.DTYPES)
NETWORKS = {
    "ddm": ("ddm-tiny", {"channels": (4, 8, 8), "depth": 2}),
    "mstg": ("acdc-small-tiny", {}),
    "hilbert-zigzag": ("acdc-small-tiny", {"spatial_order": "hilbert", "temporal_order": "zigzag"}),
    "bare": (
        "acdc-small-tiny",
        {"branches": ("temporal",), "temporal_order": "triaxis", "bidirectional": False}
        | dict.fromkeys(("branch_attention", "gate", "linear", "residual", "skips"), False)
        | {"pooling": "average"},
    ),
    "attention": ("acdc-small-tiny", {"mixer": "attention", "pooling": "max"}),
}  # fmt: skip


# Without residual connections the two programs' rounding in float32 grows to 0.7 to 1.1e-5 of the
# input's gradient: "bare" says more in float64.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, x) for name in NETWORKS for x in parity.DTYPES if (name, x) != ("bare", "float32")],
)
def test_denoiser(name, dtype):
    preset, changes = NETWORKS[name]
    with in_type(dtype):
        pair = make_pair(preset, dtype, **changes)
        x = np.concatenate(images(pair.config, 3, dtype, batch=2), axis=-1)
        t = np.array([7, 31])
        weights = np.random.default_rng(3).standard_normal((*x.shape[:-1], 1)).astype(dtype)

        @jax.jit
        def run(params, x):
            def value(params, x):
                y = pair.model(params).denoiser(x[:, None], jnp.asarray(t))[:, 0]
                return jnp.sum(y * weights), y

            (_, y), slopes = jax.value_and_grad(value, (0, 1), has_aux=True)(params, x)
            return y, slopes

        y, (to_params, to_x) = run(pair.params, x)
        given = first(x).requires_grad_()
        wanted = pair.reference.denoise_fn(given, torch.tensor(t))
        (wanted * first(weights)).sum().backward()
        assert_close(y, last(wanted), dtype)
        assert_close(to_x, last(given.grad), dtype, what="gradient")
        slopes = {k: v for k, v in pair.named(to_params).items() if k.startswith("denoise_fn.")}
        grads = pair.reference.denoise_fn.named_parameters(prefix="denoise_fn")
        assert_all_close(slopes, {k: p.grad.numpy() for k, p in grads}, dtype)


@both
def test_deformation(dtype):
    with in_type(dtype):
        pair = make_pair("ddm-tiny", dtype, deformation_channels=(4, 8, 8))
        x = np.concatenate(images(pair.config, 2, dtype), axis=-1)
        cotangents = [
            np.random.default_rng(4).standard_normal((*x.shape[:-1], c)).astype(dtype)
            for c in (1, 3)
        ]

        @jax.jit
        def run(params, x):
            def value(params, x):
                flow = pair.model(params).deformation(x)
                warped = warp((x[..., :1] + 1) / 2, flow)
                return sum(
                    jnp.sum(a * b) for a, b in zip((warped, flow), cotangents, strict=True)
                ), flow

            (_, flow), slopes = jax.value_and_grad(value, (0, 1), has_aux=True)(params, x)
            return flow, slopes

        flow, (to_params, to_x) = run(pair.params, x)
        given = first(x).requires_grad_()
        outputs = pair.reference.field_fn(given)
        sum((a * first(b)).sum() for a, b in zip(outputs, cotangents, strict=True)).backward()
        assert_close(flow, last(outputs[1]), dtype)
        assert_close(to_x, last(given.grad), dtype, what="gradient")
        slopes = {k: v for k, v in pair.named(to_params).items() if k.startswith("field_fn.")}
        grads = pair.reference.field_fn.named_parameters(prefix="field_fn")
        assert_all_close(slopes, {k: p.grad.numpy() for k, p in grads}, dtype)


FLOWS = {
    "none": lambda rng, shape: np.zeros(shape),
    "integers": lambda rng, shape: rng.integers(-3, 4, shape),
    "fractions": lambda rng, shape: rng.uniform(-3, 3, shape),
    "to the border and half beyond it": lambda rng, shape: rng.choice([-8.0, 8.0, 0.5], shape),
    "far out": lambda rng, shape: rng.choice([-1e4, 1e4], shape),
}


@both
@pytest.mark.parametrize("kind", FLOWS)
def test_spatial_transformer(kind, dtype):
    rng = np.random.default_rng(5)
    volume = rng.random((2, 5, 8, 7, 1)).astype(dtype)
    flow = FLOWS[kind](rng, (2, 5, 8, 7, 3)).astype(dtype)
    with in_type(dtype):
        y, pull = jax.vjp(warp, jnp.asarray(volume), jnp.asarray(flow))
        slopes = pull(jnp.ones_like(y))
    image, field = (first(x).requires_grad_() for x in (volume, flow))
    wanted = reference_ddm.warp(image, field)
    wanted.sum().backward()
    assert_close(y, last(wanted), dtype, least=1.0)
    assert_close(slopes[0], last(image.grad), dtype, least=1.0, what="gradient")
    if kind == "fractions":  # elsewhere the field stands on a corner, where each has its own slope
        assert_close(slopes[1], last(field.grad), dtype, what="gradient")


@both
def test_time_embedding(dtype):
    """Seen through a perceptron that leaves SiLU only."""
    t = np.array([0, 1, 999, 1999])
    with in_type(dtype):
        embedding = TimeEmbedding(8, rng=np.random.default_rng(0))
        for layer, shape in ((embedding.expand, (8, 32)), (embedding.project, (32, 8))):
            layer.kernel = nnx.Param(jnp.eye(*shape, dtype=dtype))
            layer.bias = nnx.Param(jnp.zeros(shape[1], dtype))
        got = embedding(jnp.asarray(t))
    sines = reference_ddm.TimeEmbedding(8).to(getattr(torch, dtype))(torch.tensor(t))
    assert_close(got, (sines * sines.sigmoid()).numpy(), dtype)


@both
def test_mamba_block(dtype):
    """One of two blocks, and its weights by mamba-ssm's names."""
    rng = np.random.default_rng(6)
    tokens = rng.standard_normal((2, 150, 16)).astype(dtype)
    with in_type(dtype):
        graph, params = nnx.split(Mamba(8, count=2, d_state=4, d_conv=4, expand=2, rng=rng))
        params = jax.tree.map(lambda x: x.astype(dtype), params)
        y = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(params, tokens)
    values = {k: np.asarray(x.get_value()) for (k,), x in nnx.to_flat_state(params)}
    for i in range(2):
        block = reference_mamba.Mamba(8, d_state=4, d_conv=4, expand=2).to(getattr(torch, dtype))
        tensors = interop.mamba_to_torch(values, i)
        block.load_state_dict({k: torch.tensor(x) for k, x in tensors.items()}, strict=True)
        own = slice(8 * i, 8 * i + 8)
        assert_close(y[..., own], block(torch.tensor(tokens[..., own])).detach().numpy(), dtype)
