"""Several processes: nothing starts JAX too early; two of them train, stop and resume as one."""

import json
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

import kernels
import mstg_jax
from mstg_jax.children import STOPPED

REPO = Path(__file__).parents[1]
QUICK = "--xla_backend_optimization_level=0"


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def start(*args: object, cwd: Path, flags: str = "", **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{QUICK} {flags}"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def one_of_two(index: int, address: str) -> tuple[object, ...]:
    return (
        "--cluster.coordinator", address, "--cluster.processes", 2, "--cluster.process-id", index,
    )  # fmt: skip


def two(*args: object, cwd: Path) -> list[subprocess.Popen[str]]:
    address = free_address()
    return [start(REPO / "train.py", *args, *one_of_two(i, address), cwd=cwd) for i in range(2)]


def new_run(name: str, steps: int, validate: int = 1000) -> tuple[object, ...]:
    """Arguments of a run of batches of two; its rate is constant, so that its length is no part of
    what it computes."""
    return (
        "demo-tiny", "--method", "voxelmorph", "--data.cache", "cache", "--run", name,
        "--data.size", 8, 16, 16, "--data.spacing", 12, 9, 9,
        "--train.batch", 2, "--train.steps", steps,
        "--train.validate-every", validate, "--train.validate-patients", 2,
        "--optim.decay", "constant",
    )  # fmt: skip


def logged(folder: Path, kind: str) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [line for line in found if line["kind"] == kind]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in logged(folder, "train")]


def test_two_processes_stop_together_and_resume_as_one_process_with_two_devices(tmp_path: Path):
    run = tmp_path / "two"
    processes = two(*new_run("two", 1000), cwd=tmp_path)
    until(lambda: len(losses(run)) >= 4, processes)
    # It becomes SIGTERM, which a cluster sends: the preemption service knows no other.
    processes[1].send_signal(signal.SIGINT)
    first, _ = (ended(process, code=STOPPED) for process in processes)
    stopped = len(losses(run))
    assert f"stopped at step {stopped}" in first
    assert (run / "checkpoints" / str(stopped)).is_dir()

    resumed = two("--resume", "--run", "two", "--train.steps", stopped + 2, cwd=tmp_path)
    first, _ = (ended(process) for process in resumed)
    assert f"resumed two at step {stopped}" in first

    alone = ("--resume", "--run", "two", "--train.steps", stopped + 3)
    ended(start(REPO / "train.py", *alone, cwd=tmp_path))  # without the others

    devices = "--xla_force_host_platform_device_count=2"
    one = new_run("one", stopped + 3, validate=stopped + 2)
    ended(start(REPO / "train.py", *one, cwd=tmp_path, flags=devices))
    assert len(losses(run)) == stopped + 3
    assert losses(run) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    # Two processes have a validation patient each, and show the means over both.
    shared, whole = (logged(folder, "validation")[0] for folder in (run, tmp_path / "one"))
    assert shared["step"] == whole["step"] == stopped + 2
    assert shared["psnr"] == pytest.approx(whole["psnr"], rel=1e-5)


def test_a_run_that_exists_ends_both_processes_at_once(tmp_path: Path):
    """Both see it before they join."""
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "config.json").write_text("{}", encoding="utf-8")
    for process in two(*new_run("two", 4), cwd=tmp_path):
        assert "two already holds a run" in ended(process, code=1)


def test_what_one_process_fails_at_ends_the_other(tmp_path: Path):
    """The second process alone cannot read the data."""
    code = """
import sys
from mstg_jax.config import ClusterConfig, UserError
from mstg_jax.training.processes import join, together
join(ClusterConfig(coordinator=sys.argv[1], processes=2, process_id=int(sys.argv[2])))
import jax
try:
    with together():
        if jax.process_index() == 1:
            raise UserError("patient007 is broken")
except UserError as error:
    print("told:", error)
"""
    address = free_address()
    both = [start("-c", code, address, i, cwd=REPO) for i in range(2)]
    first, second = (ended(process) for process in both)
    assert "told: process 1 stopped: patient007 is broken" in first
    assert "told: patient007 is broken" in second


def last_line(output: str) -> str:
    """What the command itself says at its end; JAX may say a lot before."""
    lines = [re.sub(r"^\[\d\] ", "", line) for line in output.splitlines()]
    (line,) = (line for line in lines if line.startswith("train.py: "))
    return line


@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_of_two_is_killed_the_other_ends_and_says_so(tmp_path: Path, killed: int):
    args = (*new_run("two", 1000), "--train.save-every", 1, "--cluster.timeout", 10)
    processes = two(*args, cwd=tmp_path)
    run = tmp_path / "two"
    until(lambda: len(losses(run)) >= 3, processes)
    pid = processes[killed].pid  # of what watches over the training
    child = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()[0]
    os.kill(int(child), signal.SIGKILL)
    ended(processes[killed], code=128 + signal.SIGKILL)
    told = last_line(ended(processes[1 - killed], code=1))
    assert re.search("one has ended|another process (of the run )?has ended", told)
    assert "--resume --run two" in told
    if killed == 0:
        return
    saved = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal())
    both = two("--resume", "--run", "two", cwd=tmp_path)
    until(lambda: (run / "checkpoints" / str(saved + 1)).is_dir(), both)
    both[1].kill()  # without it what it watches stops, too, as by Ctrl-C
    output = ended(both[0], code=STOPPED)
    both[1].communicate()
    assert f"resumed two at step {saved}" in output
    assert f"stopped at step {len(losses(run))}" in output


def test_others_that_do_not_come_are_named(tmp_path: Path):
    address = free_address()
    for index in range(2):
        args = (*new_run("two", 4), *one_of_two(index, address), "--cluster.timeout", 3)
        told = ended(start(REPO / "train.py", *args, cwd=tmp_path), code=1)
        assert last_line(told) == (
            f"train.py: the others did not come within 3 s: 2 processes at {address}, this one is "
            f"{index}"
        )


def test_without_a_known_cluster_what_is_missing_is_named(tmp_path: Path):
    args = ("demo-tiny", "--data.cache", "cache", "--run", "new", "--cluster.auto")
    told = ended(start(REPO / "train.py", *args, cwd=tmp_path), code=1)
    assert "give each --cluster.coordinator (HOST:PORT of the first one)" in last_line(told)
    assert "Traceback" not in told


def test_whoever_is_started_by_a_cluster_without_the_flag_is_told(tmp_path: Path):
    args = ("demo-tiny", "--data.cache", "cache", "--data.root", "none", "--run", "new")
    told = ended(start(REPO / "train.py", *args, cwd=tmp_path, SLURM_STEP_NUM_TASKS="8"), code=1)
    assert "SLURM has started 8 processes, but this one trains alone: --cluster.auto" in told


def test_no_import_starts_the_backend():
    """Else processes can no longer join; each module is imported."""
    commands = {"__main__"}
    names = [
        module.name
        for package in (mstg_jax, kernels)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if module.name.rpartition(".")[2] not in commands
    ]
    assert "mstg_jax.methods.base" in names
    code = f"""
import importlib
for name in {names}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name.split(".")[0] in ("triton", "jax_triton"), error
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    ended(start("-c", code, cwd=REPO))
