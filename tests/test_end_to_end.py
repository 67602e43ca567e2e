"""The whole product as its users run it: train, stop, resume, sample; each in its own process.

Only what is refused runs in this process: it would wait for imports, and do little else.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from waiting import until

import sample
import train
from mstg_jax.children import STOPPED

REPO = Path(__file__).parents[1]


def command(script: str, *args: object, cache: Path) -> subprocess.Popen[str]:
    """Start train.py or sample.py with one device and the shared cache of compiled programs."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "programs"),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, str(REPO / script), *map(str, args)],
        cwd=cache,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def training(folder: Path | str, *args: object, cache: Path) -> tuple[object, ...]:
    """Arguments of a tiny run; its rate is constant, so that runs of any length share a program."""
    return (
        "demo-tiny", "--data.cache", cache, "--data.size", 8, 16, 16, "--data.spacing", 12, 9, 9,
        "--run", folder, "--optim.decay", "constant", *args,
    )  # fmt: skip


def run(script: str, *args: object, cache: Path, code: int = 0) -> str:
    process = command(script, *args, cache=cache)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == code, output
    return output


def train_lines(folder: Path) -> list[dict]:
    lines = [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if line["kind"] == "train"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("product")


@pytest.fixture(scope="module")
def finished(cache: Path) -> Path:
    """Uninterrupted steps of the demo's twin on its phantom."""
    output = run("train.py", *training("whole", "--train.steps", 10, cache=cache), cache=cache)
    assert "using the beating-heart phantom" in output
    assert "done at step 10" in output
    return cache / "whole"


def test_training_leaves_a_complete_run(finished: Path):
    assert [line["step"] for line in train_lines(finished)] == list(range(1, 11))
    lines = (finished / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    scores = [line for line in map(json.loads, lines) if line["kind"] == "validation"]
    assert [line["step"] for line in scores] == [4, 8, 10]
    assert all({"psnr", "ssim", "nmse", "dice"} <= set(line) for line in scores)
    best = max(scores, key=lambda line: line["psnr"])["step"]
    kept = {int(p.name) for p in (finished / "checkpoints").iterdir()}
    assert kept == {6, 8, 10, best}
    for step in (4, 8, 10):
        with Image.open(finished / "pictures" / f"step-{step:06}.png") as picture:
            assert picture.width > 500
    assert list((finished / "tensorboard").iterdir())


def test_killed_and_resumed_equals_uninterrupted_to_the_last_bit(finished: Path, cache: Path):
    folder = cache / "killed"
    slow = command("train.py", *training(folder, "--train.steps", 400, cache=cache), cache=cache)
    saved = folder / "checkpoints" / "2"
    until(lambda: saved.is_dir() and len(train_lines(folder)) >= 3, [slow], seconds=400)
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    kept = {int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit()}
    last = max(kept)
    assert last + 2 <= 10, "killed too late for what the uninterrupted run holds"
    run("train.py", "--resume", "--run", folder, "--train.steps", last + 2, cache=cache)
    resumed = [line for line in train_lines(folder) if line["step"] > last]
    assert [line["step"] for line in resumed] == [last + 1, last + 2]
    assert resumed == train_lines(finished)[last : last + 2]


def test_ctrl_c_saves_and_exits_cleanly(finished: Path, cache: Path):
    folder = cache / "stopped"
    flags = ("--train.steps", 400, "--train.save-every", 300, "--train.profile", 2, 400)
    long = training(folder, *flags, cache=cache)
    process = command("train.py", *long, cache=cache)
    written = folder / "metrics.jsonl"
    until(lambda: written.is_file() and len(train_lines(folder)) > 2, [process], seconds=400)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == STOPPED, output
    step = train_lines(folder)[-1]["step"]
    assert f"stopped at step {step}" in output
    assert f"continue with: python train.py --resume --run {folder}" in output
    assert list((folder / "profile").rglob("*.xplane.pb"))
    assert (folder / "checkpoints" / str(step)).is_dir()


def test_a_run_that_begins_with_another_ones_weights_ends_with_its_time(
    finished: Path, cache: Path
):
    args = ("--init", finished, "--train.minutes", 0.01)
    process = command("train.py", *training("started", *args, cache=cache), cache=cache)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == STOPPED, output
    assert f"weights are those of {finished}, step 10" in output
    assert "the time is over" in output
    assert "stopped at step 1: started" in output
    assert (cache / "started" / "checkpoints" / "1").is_dir()


def test_sampling_writes_native_volumes_pictures_and_metrics(finished: Path, cache: Path):
    args = ("--run", finished, "--labels", "--flow")
    output = run("sample.py", *args, "--out", "first", cache=cache)
    assert "| blend |" in output
    folder = cache / "first" / "patient005"
    source = nib.Nifti1Image.from_filename(
        next(cache.glob("phantom-*")) / "testing/patient005/patient005_4d.nii.gz"
    )
    made = nib.Nifti1Image.from_filename(folder / "sequence.nii.gz")
    assert made.shape[:3] == source.shape[:3]
    assert np.array_equal(made.affine, source.affine)
    assert made.header.get_zooms()[:3] == source.header.get_zooms()[:3]
    assert np.isclose(made.header.get_zooms()[3], source.header.get_zooms()[3])
    labels = nib.Nifti1Image.from_filename(folder / "labels.nii.gz")
    assert labels.shape == made.shape
    assert labels.get_data_dtype() == np.uint8
    flow = nib.Nifti1Image.from_filename(folder / "flow.nii.gz")
    assert flow.shape == (*made.shape, 3)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {"between", "copy", "blend"}
    with Image.open(folder / "animation.gif") as gif:
        assert gif.n_frames >= made.shape[3]

    run("sample.py", *args, "--out", "second", "--patient", "patient005", cache=cache)
    for path in folder.iterdir():
        twin = cache / "second" / "patient005" / path.name
        assert twin.read_bytes() == path.read_bytes(), path.name


FOUR = ("demo-tiny", "--train.batch", "4")  # patients for the four devices of this process


@pytest.fixture
def refused(finished: Path, commands_in, capsys):
    """Call train.py's or sample.py's main beside the finished run; what it says on stderr."""
    commands_in(finished.parent)

    def call(script: ModuleType, *args: str) -> str:
        assert script.main(args) == 1
        return capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        (train, ("demo-tiny", "--data.size", "16", "30", "32"), "must be multiples of (2, 4, 4)"),
        (train, ("demo-tiny", "--method", "blend"), "has no parameters"),
        (train, (*FOUR, "--data.root", "absent"), "absent: no such folder"),
        (train, (*FOUR, "--data.cache", ".", "--run", "whole"), "already holds a run"),
        (train, ("--resume", "--run", "absent"), "absent is not a run"),
        (train, ("--resume", "--run", "whole", "--model.no-gate"), "model.gate: True -> False"),
        (sample, ("--run", "absent"), "absent is not a run"),
        (sample, ("--ed", "a.nii"), "--ed and --es go together"),
        (sample, ("--run", "whole", "--patient", "patient999"), "has no patient999"),
        (sample, ("--run", "whole", "--frames", "1"), "--frames is 1"),
    ],
)
def test_wrong_use_says_what_is_needed(
    script: ModuleType, args, message: str, refused, monkeypatch
):
    """Nobody waits for the program that would be compiled meanwhile."""
    monkeypatch.setattr("mstg_jax.training.background.in_background", lambda work: None)
    assert message in refused(script, *args)


def test_a_loss_that_is_not_finite_stops_with_step_and_patients(refused):
    args = ("--method", "voxelmorph", "--optim.learning-rate", "1e30", "--data.cache", ".")
    told = refused(train, *FOUR, *args, "--run", "diverged").splitlines()[-1]
    assert "train.py: stopped: step" in told
    assert "on patient00" in told
    assert "the last good checkpoint is" in told


def test_help_is_instant():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(REPO / "train.py"), "--help"], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert time.monotonic() - started < 3  # 0.4 s when idle; the machine may be busy with tests


def test_help_does_not_import_jax():
    code = "import sys; import mstg_jax.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0
