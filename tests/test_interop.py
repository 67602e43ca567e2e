"""Weights to PyTorch's names and back: bit for bit, and one error that names all that is wrong."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from mstg_jax import interop, runs
from mstg_jax.config import PRESETS, SettingsError
from mstg_jax.interop import __main__ as cli
from mstg_jax.methods import make_method, new_model
from mstg_jax.models.mamba import Mamba
from mstg_jax.training.checkpoint import load_model

VARIANTS = {
    "ddm": PRESETS["ddm-tiny"][1],
    "mstg": PRESETS["acdc-small-tiny"][1],
    "direct": PRESETS["direct-tiny"][1],
}
VARIANTS["attention"] = replace(
    VARIANTS["mstg"], model=replace(VARIANTS["mstg"].model, mixer="attention", depth=2)
)


def tensors_of(config, seed=3):
    """Of a model whose parameters are all different."""
    _, params = new_model(make_method(config), seed)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    filled = [rng.standard_normal(x.shape).astype(np.float32) for x in leaves]
    return interop.to_torch(jax.tree.unflatten(tree, map(jax.numpy.asarray, filled)), config)


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back(name):
    config = VARIANTS[name]
    tensors = tensors_of(config)
    _, like = new_model(make_method(config), seed=0)
    params = interop.from_torch({f"module.{k}": x for k, x in tensors.items()}, like, config)
    again = interop.to_torch(params, config)
    assert again.keys() == tensors.keys()
    for key, x in tensors.items():
        np.testing.assert_array_equal(again[key], x, err_msg=key)
    count = sum(x.size for x in jax.tree.leaves(like))
    buffers = interop.convert.buffers(config, name in ("mstg", "direct", "attention"))
    assert count == sum(x.size for key, x in tensors.items() if key not in buffers)


def test_the_names_are_those_of_the_public_code():
    """Of its checkpoint: 230 tensors, here by the first and last of each kind."""
    tensors = tensors_of(PRESETS["ddm"][1])
    assert len(tensors) == 230
    for name, shape in {
        "denoise_fn.time_mlp.1.weight": (32, 8),
        "denoise_fn.downs.0.weight": (8, 3, 3, 3, 3),
        "denoise_fn.downs.3.res_block.res_conv.weight": (16, 8, 1, 1, 1),
        "denoise_fn.downs.6.conv.bias": (32,),
        "denoise_fn.mid.0.attn.qkv.weight": (96, 32, 1, 1, 1),
        "denoise_fn.mid.1.res_block.mlp.1.weight": (32, 8),
        "denoise_fn.ups.4.res_block.block1.block.3.weight": (32, 48, 3, 3, 3),
        "denoise_fn.ups.8.conv.weight": (16, 16, 3, 3, 3),
        "denoise_fn.ups.10.res_block.block2.block.0.weight": (8,),
        "denoise_fn.final_conv.block.3.weight": (1, 8, 3, 3, 3),
        "field_fn.inconv.block.block.0.weight": (16, 2, 3, 3, 3),
        "field_fn.upconv4.upconv.weight": (8, 8, 3, 3, 3),
        "field_fn.keepblock.block.0.weight": (8, 32, 3, 3, 3),
        "field_fn.outconv.block.weight": (3, 8, 3, 3, 3),
        "posterior_mean_coef2": (2000,),
    }.items():
        assert tensors[name].shape == shape, name


def test_one_error_names_all_that_is_wrong():
    config = VARIANTS["ddm"]
    tensors = tensors_of(config)
    _, like = new_model(make_method(config), seed=0)
    del tensors["denoise_fn.downs.0.bias"], tensors["field_fn.outconv.block.weight"]
    tensors["denoise_fn.extra.weight"] = np.zeros(3, np.float32)
    tensors["denoise_fn.final_conv.block.0.bias"] = np.zeros(5, np.float32)
    with pytest.raises(interop.Misfit) as caught:
        interop.from_torch(tensors, like, config)
    assert "2 missing" in str(caught.value)
    for name in (
        "denoise_fn.downs.0.bias",
        "field_fn.outconv.block.weight",
        "1 unknown: denoise_fn.extra.weight",
        "1 of another shape: denoise_fn.final_conv.block.0.bias (5,) instead of (4,)",
    ):
        assert name in str(caught.value)


def test_another_schedule_is_refused():
    config = VARIANTS["ddm"]
    other = replace(config, diffusion=replace(config.diffusion, beta_end=0.02))
    _, like = new_model(make_method(config), seed=0)
    with pytest.raises(interop.Misfit, match=r"50 steps from 1e-06 to 0.02, but .* to 0.01"):
        interop.from_torch(tensors_of(other), like, config)


def test_a_block_of_mamba_ssm():
    """Also out of a language model's checkpoint."""
    rng = np.random.default_rng(0)
    block = Mamba(8, count=2, d_state=4, d_conv=4, expand=2, rng=rng)
    values = {k: np.asarray(x.get_value()) for (k,), x in nnx.to_flat_state(nnx.state(block))}
    prefix = "backbone.layers.0.mixer."
    tensors = interop.mamba_to_torch(values, index=1, prefix=prefix)
    assert tensors[f"{prefix}conv1d.weight"].shape == (16, 1, 4)
    assert tensors[f"{prefix}x_proj.weight"].shape == (1 + 2 * 4, 16)
    others = {"backbone.embedding.weight": np.zeros(2)}
    back = interop.mamba_from_torch(tensors | others, prefix)
    assert back.keys() == values.keys()
    for name, x in back.items():
        np.testing.assert_array_equal(x[0], values[name][1])
    del tensors[f"{prefix}A_log"]
    with pytest.raises(interop.Misfit, match="1 missing: A_log"):
        interop.mamba_from_torch(tensors, prefix)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_and_runs(tmp_path, suffix, capsys):
    """from-torch makes a run, to-torch gives the same file back."""
    pytest.importorskip(
        "torch" if suffix == ".pth" else "safetensors", reason="pip install torch safetensors"
    )
    config = PRESETS["ddm-tiny"][1]
    path, run, back = tmp_path / f"w{suffix}", tmp_path / "run", tmp_path / f"back{suffix}"
    interop.write_tensors(path, tensors_of(config))
    assert cli.main(["from-torch", str(path), "--out", str(run), "--preset", "ddm-tiny"]) == 0
    assert runs.read_config(run).method == "ddm"
    assert load_model(run, config, make_method(config))[1] == 0
    assert cli.main(["to-torch", str(run), "--out", str(back)]) == 0
    first, second = interop.read_tensors(path), interop.read_tensors(back)
    assert first.keys() == second.keys()
    for name, x in first.items():
        np.testing.assert_array_equal(x, second[name])
    assert cli.main(["from-torch", str(path), "--out", str(run), "--preset", "ddm-tiny"]) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert cli.main(["from-torch", str(path), "--out", str(tmp_path / "b")]) == 1
    assert f"{path} does not fit the model" in capsys.readouterr().err


def test_files_that_hold_no_weights(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install torch")
    broken, listed, mixed = (tmp_path / f"{name}.pth" for name in ("broken", "list", "mixed"))
    broken.write_bytes(b"not weights")
    torch.save([torch.zeros(2)], listed)
    torch.save({"a": torch.zeros(2), "epoch": 3}, mixed)
    with pytest.raises(FileNotFoundError, match="no file"):
        interop.read_tensors(tmp_path / "none.pth")
    with pytest.raises(SettingsError, match=r"broken\.pth cannot be read as PyTorch weights"):
        interop.read_tensors(broken)
    with pytest.raises(SettingsError, match=r"list\.pth holds a list; needed is a state_dict"):
        interop.read_tensors(listed)
    with pytest.raises(SettingsError, match=r"mixed\.pth has entries that are no tensors: epoch"):
        interop.read_tensors(mixed)
    with pytest.raises(SettingsError, match=r"must end in \.pth, \.pt or \.safetensors"):
        interop.write_tensors(tmp_path / "w.npz", {})


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install torch")
    path = tmp_path / "evil.pth"
    torch.save({"a": print}, path)
    with pytest.raises(SettingsError, match="tensors by name, no other objects"):
        interop.read_tensors(path)


def test_nested_and_half_precision(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install torch")
    path = tmp_path / "w.pt"
    torch.save({"epoch": 3, "state_dict": {"a": torch.full((2,), 0.5, dtype=torch.bfloat16)}}, path)
    np.testing.assert_array_equal(interop.read_tensors(path)["a"], np.full(2, 0.5, np.float32))
