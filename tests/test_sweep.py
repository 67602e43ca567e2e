"""Cells of a sweep, its folder, and sweeps as they are started: broken off, continued, shared."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import until

from mstg_jax.children import STOPPED
from mstg_jax.config import PRESETS, SettingsError
from mstg_jax.sweep import folder as sweep_folder
from mstg_jax.sweep.cells import all_names, cells, split
from mstg_jax.sweep.folder import claimed, finished, read, remember
from mstg_jax.sweep.run import sweep as run_sweep

REPO = Path(__file__).parents[1]
BASE = PRESETS["acdc-between"][1]


def names(*axes: str, form: str = "grid") -> list[str]:
    asked = split([x for axis in axes for x in ("--sweep", axis)])
    assert asked is not None
    return [cell.name for cell in cells(BASE, asked.axes, form)]  # pyright: ignore[reportArgumentType]


def test_a_grid_in_the_order_of_its_flags():
    asked = split(
        ["acdc-small", "--sweep", "model.mixer=mamba,none", "--sweep=seed=0,1", "--a", "b"]
    )
    assert asked is not None
    assert asked.argv == ["acdc-small", "--a", "b"]
    found = cells(BASE, asked.axes)
    assert [c.name for c in found] == [
        "mixer=mamba,seed=0", "mixer=mamba,seed=1", "mixer=none,seed=0", "mixer=none,seed=1",
    ]  # fmt: skip
    assert [(c.config.model.mixer, c.config.train.seed) for c in found] == [
        ("mamba", 0), ("mamba", 1), ("none", 0), ("none", 1),
    ]  # fmt: skip
    assert found[3].settings == {"model.mixer": "none", "train.seed": "1"}


def test_pairs_and_one_setting_at_a_time():
    axes = ("model.d-state=16,4", "model.gate=true,false")
    assert names(*axes, form="zip") == ["d_state=16,gate=true", "d_state=4,gate=false"]
    assert names(*axes, "seed=0,1", form="each") == [
        "base,seed=0", "base,seed=1",
        "d_state=4,seed=0", "d_state=4,seed=1", "gate=false,seed=0", "gate=false,seed=1",
    ]  # fmt: skip
    assert names(*axes, form="each") == ["base", "d_state=4", "gate=false"]


def test_values_of_every_kind():
    wanted = {
        "model.branches=spatial+temporal": ("spatial", "temporal"),
        "model.mixer_stages=1": (1,),
        "model.pooled_stages=none": (),
        "data.spacing=10+1.5+1.5": (10.0, 1.5, 1.5),
        "model.scan=None": None,
        "motion.denoiser=False": False,
        "data.root=/a/b c": "/a/b c",
        "optim.learning_rate=1e-3": 1e-3,
    }
    for text, value in wanted.items():
        name, _, written = text.partition("=")
        (cell,) = cells(BASE, [(name, (written,))])
        section, _, field = name.partition(".")
        assert getattr(getattr(cell.config, section), field) == value
        assert "/" not in cell.name
    assert names("model.channels=8+8+8", "motion.channels=8+8") == [
        "model.channels=8+8+8,motion.channels=8+8"
    ]


def test_every_setting_has_a_name():
    known = list(all_names(BASE))
    assert {"method", "model.mixer", "data.rotate", "train.seed"} <= set(known)
    assert not {"run", "resume", "cluster.auto"} & set(known)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sweep", "model.mixr=mamba"], "no setting model.mixr; did you mean model.mixer"),
        (["--sweep", "mixr=mamba"], "did you mean model.mixer?"),
        (["--sweep", "depth=1"], "did you mean data.depth or model.depth or ukan.depth?"),
        (["--sweep", "model.mixer=mambo"], "mambo is none of mamba, attention, none; did you mean"),
        (["--sweep", "model.d-state=4,x"], "x is not a whole number"),
        (["--sweep", "data.pairs=half"], "half is not a number"),
        (["--sweep", "model.gate=yes"], "it is true or false"),
        (["--sweep", "data.size=1+2"], "3 items joined by + are needed"),
        (["--sweep", "data.pairs=0,2"], "cell pairs=2 cannot work: data.pairs is 2.0"),
        (["--sweep", "seed=0", "--sweep", "train.seed=1"], "names train.seed twice"),
        (["--sweep", "seed=0,0"], "has 0 twice"),
        (["--sweep", "seed"], "must be NAME=VALUE,VALUE"),
        (["--sweep", "seed=0,"], "must be NAME=VALUE,VALUE"),
        (["--sweep"], "must be NAME=VALUE,VALUE"),
        (["--sweep.zip"], "need a --sweep"),
        (["--sweep", "seed=0", "--sweep.pairs"], "--sweep.pairs cannot stand here"),
        (["--sweep", "seed=0", "--sweep.zip", "--sweep.each"], "--sweep.each cannot stand here"),
        (["--sweep", "seed=0,1", "--sweep", "model.gate=true", "--sweep.zip"], "train.seed has 2"),
    ],
)
def test_wrong_sweeps_are_refused_before_the_first_cell(flags: list[str], said: str):
    def refused() -> None:
        asked = split(flags)
        assert asked is not None
        cells(BASE, asked.axes, asked.form)

    with pytest.raises(SettingsError) as told:
        refused()
    assert said in str(told.value)


def test_processes_share_a_sweep_by_its_folder_alone(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = split(["demo-tiny", "--run", "s", "--sweep", "seed=0,1", "--cluster.auto"])
    assert asked is not None
    with pytest.raises(SettingsError, match="leave --cluster out"):
        run_sweep(asked, "train.py", lambda _: 0)
    assert not list(tmp_path.iterdir())


def test_without_sweep_nothing_is_taken_away():
    assert split(["demo", "--train.steps", "3"]) is None


def test_a_folder_takes_more_cells_but_no_other_sweep(tmp_path: Path):
    folder = tmp_path / "sweep"
    remember(folder, BASE, cells(BASE, [("seed", ("0",))]))
    remember(folder, BASE, cells(BASE, [("seed", ("0", "1"))]))
    assert list(read(folder)[1]) == ["seed=0", "seed=1"]
    other = PRESETS["acdc-cine"][1]
    with pytest.raises(SettingsError, match="holds a sweep of other settings"):
        remember(folder, other, cells(other, [("seed", ("0",))]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(SettingsError, match="is no sweep, but it is not empty"):
        remember(tmp_path / "full", BASE, [])
    (folder / "sweep.json").write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be read as a sweep"):
        read(folder)


def test_a_claim_is_one_processes(tmp_path: Path):
    with claimed(tmp_path, "cell") as ours, claimed(tmp_path, "cell") as others:
        assert (ours, others) == (True, False)
    with claimed(tmp_path, "cell") as again:
        assert again


@pytest.mark.parametrize(
    ("host", "age", "free"),
    [("here", 0, True), ("elsewhere", 0, False), ("elsewhere", 1000, True)],
)
def test_a_claim_ends_with_its_process(tmp_path: Path, host: str, age: float, free: bool):
    """One of this machine that has ended, and those of another that gives signs of life or none."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "claims" / "cell"
    path.parent.mkdir()
    path.write_text(
        f"{socket.gethostname() if host == 'here' else host} {ended.pid}", encoding="utf-8"
    )
    then = time.time() - age
    os.utime(path, (then, then))
    with claimed(tmp_path, "cell") as ours:
        assert ours == free


def test_whoever_claims_gives_signs_of_life(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sweep_folder, "BEAT", 0.01)
    with claimed(tmp_path, "cell"):
        path = tmp_path / "claims" / "cell"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def sweep(cwd: Path, *args: object) -> subprocess.Popen[str]:
    command = (
        "demo-tiny", "--method", "voxelmorph", "--data.cache", "cache", "--data.size", 8, 16, 16,
        "--data.spacing", 12, 9, 9, "--data.depth", "resampled", "--train.save-every", 1,
        "--train.validate-every", 1000, "--train.validate-patients", 1,
        "--run", "sweep",
    )  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(REPO / "train.py"), *map(str, command), *map(str, args)],
        cwd=cwd,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def losses(run: Path) -> dict[int, float]:
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return {line["step"]: line["loss"] for line in found if line["kind"] == "train"}


def test_a_sweep_is_stopped_and_goes_on(tmp_path: Path):
    """Ctrl-C in its first cell; of the others one fails, which is named and passed over."""
    args = ("--train.steps", 12)
    axes = ("--sweep", "optim.learning_rate=1e-3,1e30,2e-3", "--sweep", "optim.clip=0")
    process = sweep(tmp_path, *args, *axes)
    first = tmp_path / "sweep" / "learning_rate=1e-3,clip=0"
    until(lambda: len(losses(first)) >= 2, [process])
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=200)
    assert process.returncode == STOPPED, told
    assert "0 of 3 cells finished: sweep" in told
    assert "the same command goes on" in told
    stopped = losses(first)
    assert len(stopped) < 12

    process = sweep(tmp_path, *args, *axes)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 1, told
    assert "2 of 3 cells finished" in told
    assert "failed: learning_rate=1e30,clip=0: exit code 1" in told
    assert "stopped: step" in told
    assert len(losses(first)) == 12
    assert stopped.items() <= losses(first).items()
    assert finished(tmp_path / "sweep" / "learning_rate=2e-3,clip=0", 12)
    assert not list((tmp_path / "sweep" / "claims").iterdir())
