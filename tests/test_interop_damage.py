"""Files of weights that are damaged, or that hold more than plain tensors: one error, no others."""

import io
import warnings
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from mstg_jax import interop
from mstg_jax.config import SettingsError

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch safetensors")

CASES = 80  # of each format
SEED = 2024


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {f"net.layer{i}.weight": (3 + i, 4) for i in range(6)} | {"net.bias": (7,)}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def saved(*, archive: bool) -> bytes:
    file = io.BytesIO()
    tensors = {name: torch.from_numpy(x) for name, x in weights().items()}
    torch.save(tensors, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


@dataclass(frozen=True)
class Damage:
    rng: np.random.Generator

    def __call__(self, content: bytes) -> bytes:
        data = bytearray(content)
        length = int(self.rng.integers(1, 64))
        first, second = sorted(self.rng.integers(0, len(data) - 64, 2).tolist())
        match self.rng.integers(4):
            case 0:
                return content[: self.rng.integers(0, len(content))]
            case 1:
                for place in self.rng.integers(0, len(data), self.rng.integers(1, 4)):
                    data[place] ^= int(self.rng.integers(1, 256))
            case 2:
                data[first : first + length] = bytes(length)
            case _:
                one, other = data[first : first + length], data[second : second + length]
                data[first : first + length], data[second : second + length] = other, one
        return bytes(data)


def identical(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == x.dtype and np.array_equal(found[name], x)
        for name, x in wanted.items()
    )


@pytest.mark.parametrize("archive", [True, False])
def test_damaged_bytes_give_one_error(archive, tmp_path):
    """And never other weights, where the format has checksums; before 1.6 it had none."""
    content, wanted, damage = saved(archive=archive), weights(), Damage(np.random.default_rng(SEED))
    path, messages = tmp_path / "w.pth", []
    for case in range(CASES):
        path.write_bytes(damage(content))
        try:
            found = interop.read_tensors(path)
        except SettingsError as error:
            messages.append(str(error))
        else:
            assert identical(found, wanted) or not archive, f"case {case}"
    assert len(messages) > CASES / 2
    for message in messages:
        assert str(path) in message
        assert "\n" not in message


@pytest.mark.parametrize("archive", [True, False])
def test_sound_bytes_are_read(archive, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(saved(archive=archive))
    assert identical(interop.read_tensors(path), weights())


def test_a_tensor_that_the_directory_calls_a_folder_is_read(tmp_path):
    """torch.load alone gives whatever is in memory for it, without a word."""
    content, path = bytearray(saved(archive=True)), tmp_path / "w.pth"
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[entry + 38] |= 0x10  # of the external attributes
    path.write_bytes(content)
    assert identical(interop.read_tensors(path), weights())


def test_an_archive_without_checksums_is_read(tmp_path):
    path = tmp_path / "w.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path.write_bytes(saved(archive=True))
    finally:
        torch.serialization.set_crc32_options(before)
    assert identical(interop.read_tensors(path), weights())


def test_an_empty_file_says_so(tmp_path):
    path = tmp_path / "w.pth"
    path.touch()
    with pytest.raises(SettingsError, match=r"w\.pth cannot be read .* \(the file is empty\)"):
        interop.read_tensors(path)


def test_an_object_beside_the_tensors_is_named(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(2)}, "callback": print}, tmp_path / "w.pth")
    with pytest.raises(SettingsError, match=r"\(it holds print, which is no tensor\); needed") as e:
        interop.read_tensors(tmp_path / "w.pth")
    assert "\x1b" not in str(e.value)


@pytest.mark.parametrize(
    "nested",
    [
        lambda x: {
            "epoch": 3,
            "global_step": 10,
            "optimizer_states": [{"lr": 0.1}],
            "state_dict": x,
        },
        lambda x: {"model": {"state_dict": x, "epoch": 1}},
        lambda x: {"model_state_dict": x, "loss": 0.5},
    ],
)
def test_training_scripts_nest_their_weights(nested, tmp_path):
    tensors = {name: torch.from_numpy(x) for name, x in weights().items()}
    torch.save(nested(tensors), tmp_path / "w.ckpt")
    assert identical(interop.read_tensors(tmp_path / "w.ckpt"), weights())


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    endless = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "w.pth")
    with pytest.raises(SettingsError, match="entries that are no tensors: state_dict"):
        interop.read_tensors(tmp_path / "w.pth")


def test_names_are_strings(tmp_path):
    torch.save({0: torch.zeros(2), "a": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(SettingsError, match=r"names are no strings: 0; needed is a state_dict"):
        interop.read_tensors(tmp_path / "w.pth")


NOT_PLAIN = {
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn, strided, on cpu"),
    "sparse": (lambda x: x.to_sparse(), "float32, sparse_coo, on cpu"),
    "without values": (lambda x: x.to("meta"), "float32, strided, on meta"),
    "sparse bfloat16": (lambda x: x.bfloat16().to_sparse(), "bfloat16, sparse_coo, on cpu"),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_tensors_without_an_array_are_named(kind, tmp_path):
    change, found = NOT_PLAIN[kind]
    torch.save({"a": torch.zeros(2), "net.b": change(torch.ones(2, 3))}, tmp_path / "w.pth")
    message = rf"w\.pth: net\.b is no plain tensor \({found}\); needed are float32"
    with pytest.raises(SettingsError, match=message):
        interop.read_tensors(tmp_path / "w.pth")


def test_a_quantised_tensor_is_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are deprecated, but files have them
        indices = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    torch.save({"net.b": indices}, tmp_path / "w.pth")
    with pytest.raises(
        SettingsError, match=r"net\.b is no plain tensor \(qint8, strided, on cpu\)"
    ):
        interop.read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_types_are_kept(suffix, dtype, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors: pip install safetensors")
    tensors = {name: x.astype(dtype) for name, x in weights().items()}
    interop.write_tensors(tmp_path / f"w{suffix}", tensors)
    assert identical(interop.read_tensors(tmp_path / f"w{suffix}"), tensors)


def test_a_safetensors_file_names_what_it_cannot_give(tmp_path):
    save_file = pytest.importorskip("safetensors.torch", reason="pip install safetensors").save_file
    path = tmp_path / "w.safetensors"
    save_file({"net.b": torch.ones(2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(SettingsError, match=r"w\.safetensors cannot be read .*at net\.b"):
        interop.read_tensors(path)
    for content in (b"", b"\0" * 7, path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"w\.safetensors cannot be read as \.safetensors"):
            interop.read_tensors(path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file"):
        interop.write_tensors(tmp_path / "file" / "w.pth", weights())
    (tmp_path / "w.pth").mkdir()
    with pytest.raises(IsADirectoryError, match=r"w\.pth"):
        interop.write_tensors(tmp_path / "w.pth", weights())
    assert {path.name for path in tmp_path.iterdir()} == {"file", "w.pth"}
