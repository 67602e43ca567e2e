"""Each baseline as its users run it: train, resume, sample, in this process."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import sample
import train

NAMES = ("voxelmorph", "r2net", "ukan", "cgan")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("baselines")


@pytest.fixture(autouse=True)
def one_place(cache: Path, commands_in):
    """Runs are below the cache."""
    commands_in(cache)


def run(name: str, folder: str, *args: str) -> None:
    """Steps of the demo's tiny twin on as many patients at once as there are devices."""
    command = ["demo-tiny", "--method", name, "--data.cache", ".", "--run", folder]
    fixed = ["--train.batch", str(jax.device_count()), "--optim.decay", "constant"]
    grid = ["--data.size", "16", "16", "16", "--data.spacing", "6", "9", "9"]
    grid += ["--data.depth", "resampled"]
    assert train.main([*command, *fixed, *grid, *args]) == 0


def lines(folder: str) -> list[dict]:
    return [
        json.loads(line)
        for line in Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_train_and_sample(name: str):
    run(name, name)
    assert [line["step"] for line in lines(name) if line["kind"] == "train"] == [1, 2, 3, 4]
    assert np.isfinite(lines(name)[-1]["psnr"])
    assert sample.main(["--run", name, "--out", f"{name}-samples", "--patient", "patient005"]) == 0
    metrics = json.loads(
        Path(f"{name}-samples/patient005/metrics.json").read_text(encoding="utf-8")
    )
    assert set(metrics) == {name, "copy", "blend"}


def test_turns_resume_exactly():
    """Two steps, then two more from the checkpoint, are the four of the run before."""
    run("cgan", "halved", "--train.steps", "2")
    assert train.main(["--resume", "--run", "halved", "--train.steps", "4"]) == 0
    straight, halved = (
        [line for line in lines(folder) if line["kind"] == "train"] for folder in ("cgan", "halved")
    )
    assert halved == straight
    assert lines("halved")[-1] == lines("cgan")[-1]
