"""sample.py in this process: what it leaves in which folder, and what it says before it starts."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pytest
from untrained import write_untrained

import sample
from mstg_jax import runs
from mstg_jax.cli import parse_sample
from mstg_jax.config import PRESETS, Config, DiffusionConfig, SettingsError
from mstg_jax.data.pipeline import data_root
from mstg_jax.evaluation.__main__ import Row, Settings, with_samplers

RESULTS = {"sequence.nii.gz", "animation.gif", "frames.png", "slices.png", "metrics.json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with an untrained run, the phantom, and the phantom's patients as pairs of files."""
    folder = tmp_path_factory.mktemp("sampling")
    config = write_untrained(folder)
    patients = sorted(data_root(config.data).glob("*/patient*"))
    for patient, pair in zip(patients, ("a/p1", "b/p1", "b/p2"), strict=False):
        (folder / pair).mkdir(parents=True)
        frames = sorted(p for p in patient.glob("*_frame*.nii.gz") if "_gt" not in p.name)
        for path, name in zip(frames, ("ED", "ES"), strict=True):
            shutil.copy(path, folder / pair / f"{name}.nii.gz")
    return folder


@pytest.fixture
def call(place: Path, commands_in, capsys, tmp_path):
    """sample.main beside the run, into tmp_path; what it printed, or said where it failed."""
    commands_in(place)

    def run(*args: str, code: int = 0) -> str:
        assert sample.main(["--run", "run", "--out", str(tmp_path), *args]) == code
        return capsys.readouterr()[bool(code)]

    return run


def pair(name: str) -> tuple[str, ...]:
    return "--ed", f"{name}/ED.nii.gz", "--es", f"{name}/ES.nii.gz", "--frames", "3"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_patients_folder_holds_the_results_of_one_call(call, tmp_path):
    call("--patient", "patient005", "--labels", "--flow")
    folder = tmp_path / "patient005"
    assert names(folder) == RESULTS | {"labels.nii.gz", "flow.nii.gz"}
    (folder / "notes.txt").touch()
    call("--patient", "patient005")
    assert names(folder) == RESULTS | {"notes.txt"}


@pytest.mark.parametrize("flag", ["--labels", "--flow"])
def test_methods_without_displacements_say_so_before_they_generate(call, tmp_path, flag: str):
    runs.create(Config(method="direct", run=str(tmp_path / "direct")))
    said = call("--run", str(tmp_path / "direct"), "--patient", "patient005", flag, code=1)
    assert said.endswith("direct makes no displacement field: leave --labels and --flow out\n")


def test_a_call_that_fails_leaves_the_earlier_results(call, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    call(*pair("a/p1"))
    (folder,) = tmp_path.iterdir()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("mstg_jax.evaluation.outputs.draw", full)
    told = f"sample.py: --out {tmp_path} cannot be written: No space left on device; it needs"
    assert told in call(*pair("a/p1"), code=1)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_pairs_of_two_patients_never_share_a_folder(call, tmp_path):
    """Neither by their files' names nor by their folders'; the same pair has the same one."""
    for name in ("a/p1", "b/p1", "b/p2", "a/p1"):
        assert f" -> {tmp_path}/{name[2:]}-ED-" in call(*pair(name))
    assert [name[:6] for name in sorted(names(tmp_path))] == ["p1-ED-", "p1-ED-", "p2-ED-"]
    for folder in tmp_path.iterdir():
        assert names(folder) == RESULTS - {"metrics.json"}
        assert nib.Nifti1Image.from_filename(folder / "sequence.nii.gz").shape[3] == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--ed", "absent.nii", "--es", "b/p1/ES.nii.gz"), "absent.nii: no such file"),
        (("--patient", "patient999"), "has no patient999"),
        (("--data.root", "absent"), "absent: no such folder"),
        (("--out", "run/config.json"), "--out run/config.json cannot be written: File exists"),
    ],
)
def test_wrong_files_and_names_are_told_before_the_model_is_loaded(
    call, args, message, monkeypatch
):
    monkeypatch.setattr(sample, "sample_patients", None)
    assert message in call(*args, code=1)


def test_samplers_are_chosen_when_sampling():
    """Of the methods that have one."""
    config, run = PRESETS["direct-tiny"][1], Path("runs/x")
    options = parse_sample(["--sampler", "heun", "--sampler-steps", "7"])
    found = sample.settings_of(options, run, config)
    assert found == replace(
        config, diffusion=replace(config.diffusion, sampler="heun", sampler_steps=7)
    )
    noisy = sample.settings_of(parse_sample(["--eta", "0.5"]), run, config)
    assert noisy.diffusion == replace(config.diffusion, eta=0.5)
    assert sample.settings_of(parse_sample([]), run, config) == config
    with pytest.raises(SettingsError, match=r"diffusion.eta is 0.5, but it is ddim's, .* is heun"):
        sample.settings_of(parse_sample(["--sampler", "heun", "--eta", "0.5"]), run, config)
    with pytest.raises(SettingsError, match=r"methods direct and ukan; runs/x is between"):
        sample.settings_of(options, run, PRESETS["acdc-between-tiny"][1])


def test_samplers_make_rows_of_runs_that_sample(tmp_path: Path):
    settings = Settings((), tmp_path, sampler=("ddim-5", "analytic-4"))
    config = replace(PRESETS["direct-tiny"][1], diffusion=DiffusionConfig(eta=0.5))
    ddim, analytic = with_samplers(tmp_path, config, settings)
    assert (ddim.sampler, ddim.config.diffusion) == ("ddim-5", DiffusionConfig(sampler_steps=5))
    wanted = DiffusionConfig(sampler="ddpm", variance="optimal", sampler_steps=4)
    assert analytic.config.diffusion == wanted
    other = PRESETS["demo-tiny"][1]
    assert with_samplers(tmp_path, other, settings) == [Row(tmp_path, other)]
    for wrong in ("ddim", "ddim-x", "euler-5"):
        with pytest.raises(SettingsError, match="it needs a name and a number of steps"):
            with_samplers(tmp_path, config, replace(settings, sampler=(wrong,)))
