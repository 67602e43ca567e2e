"""Several processes: nothing starts JAX too early; two of them train, stop and resume as one."""

import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

import kernels
import mstg_jax

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


def two(*args: object, cwd: Path) -> list[subprocess.Popen[str]]:
    address = free_address()
    return [
        start(
            REPO / "train.py", *args, "--train.distributed", cwd=cwd,
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]  # fmt: skip


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
    first, _ = (ended(process) for process in processes)
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
from mstg_jax.config import UserError
from mstg_jax.training.processes import join, together
join()
import jax
try:
    with together():
        if jax.process_index() == 1:
            raise UserError("patient007 is broken")
except UserError as error:
    print("told:", error)
"""
    address = free_address()
    env = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    both = [start("-c", code, cwd=REPO, JAX_PROCESS_ID=str(i), **env) for i in range(2)]
    first, second = (ended(process) for process in both)
    assert "told: process 1 stopped: patient007 is broken" in first
    assert "told: patient007 is broken" in second


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "set JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two', which is no number"),
    ],
)
def test_without_a_known_cluster_what_is_missing_is_named(env, message, tmp_path: Path):
    args = ("demo-tiny", "--data.cache", "cache", "--run", "new", "--train.distributed")
    told = ended(start(REPO / "train.py", *args, cwd=tmp_path, **env), code=1)
    (line,) = (line for line in told.splitlines() if line.startswith("train.py: "))
    assert message in line
    assert "Traceback" not in told


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
