"""What a state_dict may look like: wrappers' prefixes, half precision; which values are refused."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mstg_jax import interop
from mstg_jax.config import PRESETS
from mstg_jax.interop.convert import buffers
from mstg_jax.methods import make_method, new_model

CONFIG = PRESETS["ddm-tiny"][1]
FIRST = "denoise_fn.downs.0.weight"
BLOCK = "backbone.layers.0.mixer."


@pytest.fixture(scope="module")
def like():
    return new_model(make_method(CONFIG), seed=0)[1]


@pytest.fixture(scope="module")
def tensors(like):
    """Of a model whose parameters are all different, exact in half precision."""
    leaves, tree = jax.tree.flatten(like)
    rng = np.random.default_rng(3)
    filled = [rng.integers(-100, 100, x.shape).astype(np.float32) / 64 for x in leaves]
    return interop.to_torch(jax.tree.unflatten(tree, map(jnp.asarray, filled)), CONFIG)


def assert_taken(given, tensors, like):
    again = interop.to_torch(interop.from_torch(given, like, CONFIG), CONFIG)
    for name, x in tensors.items():
        np.testing.assert_array_equal(again[name], x, err_msg=name)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "_orig_mod.module.", "model._orig_mod.net.module."],
)
def test_what_stands_in_front_of_all_names_is_taken_off(prefix, tensors, like):
    assert_taken({prefix + name: x for name, x in tensors.items()}, tensors, like)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module"])
def test_a_part_may_be_compiled_or_parallel(wrapper, tensors, like):
    """torch.compile(model.denoise_fn), then the model in Lightning."""
    inner = {k.replace("denoise_fn.", f"denoise_fn.{wrapper}."): x for k, x in tensors.items()}
    assert_taken({f"model.{name}": x for name, x in inner.items()}, tensors, like)


def test_prefixes_of_some_names_are_not_taken_off(tensors, like):
    others = {"loss.weight": np.zeros(2, np.float32)}
    with pytest.raises(interop.Misfit, match=r"unknown: .*model\.denoise_fn.*loss\.weight"):
        interop.from_torch({f"model.{k}": x for k, x in tensors.items()} | others, like, CONFIG)


def test_no_tensor_is_lost_to_another_of_its_name(tensors, like):
    given = tensors | {f"module.{FIRST}": np.zeros_like(tensors[FIRST])}
    message = rf"one name without their prefixes: {FIRST}, module\.{FIRST}"
    with pytest.raises(interop.Misfit, match=message):
        interop.from_torch(given, like, CONFIG)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_buffers_are_compared_in_the_type_they_are_stored_in(dtype, tensors, like):
    given = {name: x.astype(dtype) for name, x in tensors.items()}
    assert_taken(given, tensors, like)
    other = replace(CONFIG.diffusion, beta_end=0.0102)
    given["betas"] = buffers(replace(CONFIG, diffusion=other), mixers=False)["betas"].astype(dtype)
    with pytest.raises(interop.Misfit, match=r"to 0\.0102, but those of the settings are .* 0\.01"):
        interop.from_torch(given, like, CONFIG)


@pytest.mark.parametrize("betas", [np.float32(0.01), np.zeros(0), np.zeros((2, 3)), np.arange(50)])
def test_betas_that_are_no_schedule(betas, tensors, like):
    given = tensors | {"betas": np.asarray(betas)}
    with pytest.raises(interop.Misfit, match=r"betas are of shape .* and type .* 50 steps"):
        interop.from_torch(given, like, CONFIG)


def spoiled(x: np.ndarray, value: float) -> np.ndarray:
    out = x.astype(np.float64)
    out[0, 0, 1] = value
    return out


REFUSED = {
    "nan": (lambda x: spoiled(x, np.nan), "1 not finite in float32: {name} {row} of {size} values"),
    "infinite": (lambda x: spoiled(x, -np.inf), "1 not finite in float32: {name}"),
    "too large": (lambda x: spoiled(x, 1e39), "1 not finite in float32: {name}"),
    "complex": (lambda x: x + 1j, "1 no real numbers in floating point: {name} complex"),
    "integers": (lambda x: x.astype(np.int64), "1 no real numbers .*: {name} int64"),
    "bool": (lambda x: x > 0, "1 no real numbers .*: {name} bool"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_that_are_no_weights_are_refused(kind, tensors, like):
    change, message = REFUSED[kind]
    x = tensors[FIRST]
    message = message.format(name=FIRST, row=x[0, 0, 1].size, size=x.size)
    with pytest.raises(interop.Misfit, match=message):
        interop.from_torch(tensors | {FIRST: change(x)}, like, CONFIG)


def block(d_model=8, d_inner=16, d_state=4, dt_rank=1, d_conv=3) -> dict[str, np.ndarray]:
    """Tensors of a block of mamba-ssm."""
    rng = np.random.default_rng(1)
    shapes = {
        "in_proj.weight": (2 * d_inner, d_model),
        "conv1d.weight": (d_inner, 1, d_conv),
        "conv1d.bias": (d_inner,),
        "x_proj.weight": (dt_rank + 2 * d_state, d_inner),
        "dt_proj.weight": (d_inner, dt_rank),
        "dt_proj.bias": (d_inner,),
        "A_log": (d_inner, d_state),
        "D": (d_inner,),
        "out_proj.weight": (d_model, d_inner),
    }
    return {BLOCK + k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("name", [name.removeprefix(BLOCK) for name in block()])
@pytest.mark.parametrize("cut", ["longer", "an axis less"])
def test_a_block_of_mamba_whose_shapes_do_not_fit_is_refused(name, cut):
    tensors = block()
    assert interop.mamba_from_torch(tensors, BLOCK)["A_log"].shape == (1, 16, 4)
    x = tensors[BLOCK + name]
    tensors[BLOCK + name] = np.concatenate([x, x]) if cut == "longer" else x[0]
    with pytest.raises(interop.Misfit, match=r"not a Mamba block .* of another shape: .*instead"):
        interop.mamba_from_torch(tensors, BLOCK)


@pytest.mark.parametrize("kind", REFUSED)
def test_values_that_are_no_weights_of_a_block_are_refused(kind):
    tensors = block()
    x = tensors[f"{BLOCK}conv1d.weight"]
    change, message = REFUSED[kind]
    tensors[f"{BLOCK}conv1d.weight"] = change(x)
    message = message.format(name=r"conv1d\.weight", row=1, size=x.size)
    with pytest.raises(interop.Misfit, match=message):
        interop.mamba_from_torch(tensors, BLOCK)


def test_a_block_in_half_precision_becomes_single():
    half = {name: x.astype(jnp.bfloat16) for name, x in block().items()}
    found = interop.mamba_from_torch(half, BLOCK)
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["D"][0], half[f"{BLOCK}D"].astype(np.float32))
