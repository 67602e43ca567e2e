"""Checkpoints that are damaged, and disks that refuse them."""

import os
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import tensorstore as ts
from jax import numpy as jnp

from mstg_jax import console
from mstg_jax.config import PRESETS, UserError
from mstg_jax.methods import make_method
from mstg_jax.training.checkpoint import Checkpoints, load_model
from mstg_jax.training.initial import with_weights_of
from mstg_jax.training.log import RunLog
from mstg_jax.training.sharding import make_mesh, replicate
from mstg_jax.training.state import TrainState, init_state, make_optimiser

CONFIG = replace(PRESETS["demo-tiny"][1], method="voxelmorph")
METHOD = make_method(CONFIG)


OPTIMISER = make_optimiser(CONFIG.optim, CONFIG.train.steps)
STRUCTURE, NEW = init_state(METHOD, OPTIMISER, seed=0)


def state_of(step: int) -> TrainState:
    """Random numbers of the step's own."""
    rng = np.random.default_rng(step)
    state = jax.tree.map(lambda x: jnp.asarray(rng.random(x.shape), x.dtype), NEW)
    return state._replace(step=jnp.asarray(step, jnp.int32))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A run with checkpoints of the steps 2 and 4."""
    run = tmp_path_factory.mktemp("checkpoints") / "run"
    with Checkpoints(run, STRUCTURE) as checkpoints:
        for step in (2, 4):
            checkpoints.save(state_of(step), CONFIG)
    return run


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "run"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that takes no more bytes of any file; what it says is `File too large`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def newest(run: Path) -> Path:
    return run / "checkpoints" / "4"


def truncate(run: Path) -> None:
    for path in newest(run).glob("state/ocdbt.process_0/d/*"):
        os.truncate(path, 10)


def flip_a_bit(run: Path) -> None:
    """Of an array, which no checksum of orbax covers. Its file also holds bytes that nothing reads,
    more or fewer of them as the writing threads met, so its bytes are looked for."""
    store = ts.KvStore.open(
        {"driver": "ocdbt", "base": f"file://{newest(run)}/state/"}, context=ts.Context()
    ).result()
    array = max((store[key] for key in store.list().result()), key=len)
    found = 0
    for path in newest(run).glob("state/**/d/*"):
        data = path.read_bytes()
        if (start := data.find(array)) >= 0:
            middle = start + len(array) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
            found += 1
    assert found


def lose(part: str):
    return lambda run: shutil.rmtree(newest(run) / part)


class Executed:
    """A pickle of it leaves a file where it is read."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self):
        return (os.mkdir, (str(self._path),))


def put_pickles(run: Path) -> None:
    """In place of everything, as a stranger's checkpoint might be."""
    for path in [p for p in newest(run).rglob("*") if p.is_file()]:
        path.write_bytes(pickle.dumps(Executed(run / "executed")))


DAMAGES = {
    "pickles": put_pickles,
    "truncated": truncate,
    "one bit": flip_a_bit,
    "no arrays": lose("state"),
    "nothing": lambda run: [shutil.rmtree(p) for p in newest(run).iterdir() if p.is_dir()],
}


def test_the_newest_and_the_best_are_kept(tmp_path: Path):
    scores = {
        2: {"psnr": 29.0},
        4: {"psnr": 30.0, "ssim": 0.9},
        6: {"dice": 0.8},
        8: {"psnr": 29.5},
    }
    with Checkpoints(tmp_path, STRUCTURE, keep=2) as checkpoints:
        for step in (2, 4, 6, 8, 10):
            checkpoints.save(state_of(step), CONFIG, scores.get(step))
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert kept == {4, 8, 10}
    assert load_model(tmp_path, CONFIG, METHOD)[1] == 10
    (_, ema), step = load_model(tmp_path, CONFIG, METHOD, best=True)
    assert step == 4
    chex.assert_trees_all_equal(ema, STRUCTURE.params(state_of(4).ema))
    shutil.rmtree(tmp_path / "checkpoints" / "4" / "state")
    with pytest.raises(UserError, match="checkpoints/4 is damaged"):
        load_model(tmp_path, CONFIG, METHOD, best=True)


def test_a_run_without_validation_has_no_best(run: Path):
    with pytest.raises(UserError, match="has been validated: leave --best out"):
        load_model(run, CONFIG, METHOD, best=True)


def test_a_new_run_begins_with_the_weights_of_another(run: Path, caplog):
    caplog.set_level("INFO")
    state = with_weights_of(run, CONFIG, STRUCTURE, NEW)
    np.testing.assert_array_equal(state.params, state_of(4).ema)
    np.testing.assert_array_equal(state.ema, state_of(4).ema)
    assert int(state.step) == 0
    chex.assert_trees_all_equal(state.opt_state, NEW.opt_state)
    count = len(jax.tree.leaves(STRUCTURE.params(state.params)))
    assert caplog.messages == [f"{count} of {count} weights are those of {run}, step 4"]


def test_what_does_not_fit_a_new_run_is_named(run: Path, caplog):
    """Another last stage: its own weights, and of the one before those that see it."""
    model = replace(CONFIG.model, deformation_channels=(*CONFIG.model.deformation_channels[:-1], 6))
    config = replace(CONFIG, model=model)
    structure, new = init_state(make_method(config), OPTIMISER, seed=0)
    state = with_weights_of(run, CONFIG, structure, new)
    taken, before = (structure.params(x) for x in (state.params, new.params))
    same = jax.tree.map(np.array_equal, taken, before)
    left = [x for x in jax.tree.leaves(same) if x]
    assert 0 < len(left) < len(jax.tree.leaves(same))
    (line,) = (line for line in caplog.messages if line.startswith(f"not of {run}, but new: "))
    assert line.count(" there") == min(len(left), 8)
    assert "6), (" in line


def test_a_run_of_which_nothing_fits_is_refused(run: Path, tmp_path: Path):
    data = replace(CONFIG.data, depth="resampled")
    other = replace(CONFIG, method="r2net", data=data)
    structure, new = init_state(make_method(other), OPTIMISER, seed=0)
    with pytest.raises(UserError, match="none of its weights has the name and shape"):
        with_weights_of(run, CONFIG, structure, new)
    with pytest.raises(UserError, match="no checkpoint in"):
        with_weights_of(tmp_path / "nothing", CONFIG, structure, new)


def test_a_new_run_does_not_begin_with_damaged_weights(run: Path):
    flip_a_bit(run)
    state = with_weights_of(run, CONFIG, STRUCTURE, NEW)
    np.testing.assert_array_equal(state.params, state_of(2).ema)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_put_aside_and_the_sound_one_before_it_resumed(
    run: Path, damage: str, capfd
):
    console.set_up([])
    DAMAGES[damage](run)
    kept = sorted(p.relative_to(newest(run)) for p in newest(run).rglob("*"))
    with Checkpoints(run, STRUCTURE) as checkpoints:
        state = checkpoints.restore()
        chex.assert_trees_all_equal(state, state_of(2))
        checkpoints.save(state_of(4), CONFIG)  # as training does: its step is free again
    (aside,) = (run / "checkpoints").glob("damaged-4-*")
    assert sorted(p.relative_to(aside) for p in aside.rglob("*")) == kept
    (line,) = capfd.readouterr().err.splitlines()
    folder = run / "checkpoints"
    assert line.startswith(f"warning: {folder / '4'} is damaged (")
    assert line.endswith(f") and is now {aside.name}; {folder / '2'} is used")
    with Checkpoints(run, STRUCTURE) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(), state_of(4))
    assert not (run / "executed").exists()


def test_from_four_devices_to_one_and_back(run: Path):
    """To the last bit."""
    for step, devices in ((6, 4), (8, 1), (10, 4)):
        mesh = make_mesh(
            replace(CONFIG, train=replace(CONFIG.train, batch=4)), jax.devices()[:devices]
        )
        with Checkpoints(run, STRUCTURE) as checkpoints:
            before = replicate(checkpoints.restore(), mesh)
            chex.assert_trees_all_equal(before, state_of(max(4, step - 2)))
            checkpoints.save(replicate(state_of(step), mesh), CONFIG)


def test_sampling_uses_the_sound_checkpoint_and_changes_nothing(run: Path, capfd):
    console.set_up([])
    truncate(run)
    before = sorted(run.rglob("*"))
    (_, ema), step = load_model(run, CONFIG, METHOD)
    assert step == 2
    chex.assert_trees_all_equal(ema, STRUCTURE.params(state_of(2).ema))
    assert sorted(run.rglob("*")) == before
    assert capfd.readouterr().err.endswith(f"; {run / 'checkpoints' / '2'} is used\n")


def test_a_run_without_a_sound_checkpoint_says_so_in_one_line(run: Path, capfd):
    for path in run.rglob("ocdbt.process_0"):
        shutil.rmtree(path)
    with pytest.raises(UserError, match=r"no checkpoint in .*run/checkpoints can be read: 4 \(.*2"):
        load_model(run, CONFIG, METHOD)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"no checkpoint in .*run/checkpoints: the run ended"):
        load_model(run, CONFIG, METHOD)
    assert capfd.readouterr().err == ""
    assert not list(run.iterdir())


def test_weights_of_another_network_are_named_as_such(run: Path):
    config = replace(CONFIG, method="mstg")
    with pytest.raises(UserError, match=r"can be read: 4 .its weights have other"):
        load_model(run, config, make_method(config))


def test_a_checkpoint_of_before_its_checksum_is_read(run: Path):
    shutil.rmtree(newest(run) / "contents")
    assert load_model(run, CONFIG, METHOD)[1] == 4


@pytest.mark.parametrize("size", [0, 400, 4000])
def test_a_disk_that_refuses_a_checkpoint_ends_in_one_line(run: Path, size: int, capfd):
    with (
        pytest.raises(UserError) as stopped,
        files_of_at_most(size),
        Checkpoints(run, STRUCTURE) as checkpoints,
    ):
        checkpoints.save(state_of(6), CONFIG)
    assert str(stopped.value) == (
        "the checkpoint of step 6 cannot be written: File too large; the last good checkpoint is "
        f"{newest(run)}; once that is mended, continue with --resume --run {run}"
    )
    assert capfd.readouterr().err == ""
    with Checkpoints(run, STRUCTURE) as checkpoints:
        assert int(checkpoints.restore().step) == 4
        checkpoints.save(state_of(6), CONFIG)
    assert load_model(run, CONFIG, METHOD)[1] == 6
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "4", "6"]


def test_a_folder_that_takes_no_checkpoints_is_named_by_its_flag():
    with pytest.raises(UserError, match=r"^--run /proc/self cannot be written: .*/checkpoints\)"):
        Checkpoints(Path("/proc/self"), STRUCTURE).__enter__()


@pytest.mark.parametrize("size", [10, 100])
def test_a_disk_that_refuses_numbers_ends_in_one_line(run: Path, size: int):
    """10 bytes are less than a line of metrics.jsonl, 100 less than TensorBoard's first events."""
    with (
        pytest.raises(UserError) as stopped,
        files_of_at_most(size),
        Checkpoints(run, STRUCTURE),
        RunLog(run, 4, write=True) as log,
    ):
        log.add(5, "train", {"loss": 1.0})
    assert str(stopped.value) == (
        f"--run {run} cannot be written: File too large; the last good checkpoint is "
        f"{newest(run)}; once that is mended, continue with --resume --run {run}"
    )
