"""Settings: presets are sound, survive JSON, and refuse what cannot work."""

import json
from dataclasses import replace

import pytest

from mstg_jax import runs
from mstg_jax.cli import parse_sample, parse_train
from mstg_jax.config import (
    PRESETS,
    CGANConfig,
    Config,
    DataConfig,
    ModelConfig,
    MotionConfig,
    OptimConfig,
    SettingsError,
    TrainConfig,
    check,
    differences,
    from_json,
    to_json,
    validating,
)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound_and_survive_json(name: str):
    config = PRESETS[name][1]
    check(config)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert parse_train([name]) == config


def test_flags_override_presets_and_demo_is_the_default():
    config = parse_train(["--data.skip-bad", "--model.mixer-stages", "3", "--train.steps", "7"])
    demo = PRESETS["demo"][1]
    assert config.data == replace(demo.data, skip_bad=True)
    assert config.model == replace(demo.model, mixer_stages=(3,))
    assert sorted(differences(demo, config)) == [
        "data.skip_bad: False -> True",
        "model.mixer_stages: (2, 3) -> (3,)",
        "train.steps: 300 -> 7",
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(data=DataConfig(size=(24, 96, 96))), r"multiple of 16"),
        (Config(method="direct", data=DataConfig(size=(12, 96, 96))), r"multiple of 8"),
        (Config(method="r2net", data=DataConfig(size=(24, 96, 96))), r"multiple of 16"),
        (Config(method="ukan", data=DataConfig(size=(24, 96, 96))), r"multiple of 16"),
        (Config(method="cgan", data=DataConfig(size=(12, 96, 96))), r"multiple of 8"),
        (Config(method="voxelmorph", data=DataConfig(size=(8, 96, 96))), r"multiple of 16"),
        (Config(model=ModelConfig(deformation_channels=(8,))), r"at least 2 stages"),
        (Config(method="ddm", motion=MotionConfig(ends="both")), r"both, which is mstg's"),
        (Config(cgan=CGANConfig(discriminator=())), r"cgan\.discriminator is 0"),
        (Config(data=DataConfig(spacing=(3.15, 0.0, 1.5))), r"data\.spacing is 0\.0"),
        (Config(data=DataConfig(validation=1.0)), r"must lie in \[0, 1\)"),
        (Config(model=ModelConfig(mixer_stages=(1, 4))), r"there are stages 0\.\.3"),
        (Config(optim=OptimConfig(learning_rate=-1e-4)), r"optim\.learning_rate is -0\.0001"),
        (Config(train=TrainConfig(batch=0)), r"train\.batch is 0"),
        (Config(train=TrainConfig(distributed=True)), r"train\.distributed needs --run"),
    ],
)
def test_settings_that_cannot_work_are_refused(config: Config, message: str):
    with pytest.raises(SettingsError, match=message):
        check(config)


def test_runs_from_before_a_section_get_its_defaults():
    stored = to_json(PRESETS["ddm"][1])
    for section in ("r2net", "ukan", "cgan", "motion"):
        del stored[section]
    assert from_json(stored) == PRESETS["ddm"][1]


def test_ukan_validates_with_fewer_reverse_steps():
    for method, steps in (("direct", 50), ("ukan", 10)):
        assert validating(Config(method=method)).diffusion.sampler_steps == steps


def test_unknown_stored_setting_names_the_file(tmp_path):
    stored = to_json(Config())
    stored["model"]["banana"] = 1
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(SettingsError, match=r"config\.json .*unknown settings.*banana"):
        runs.read_config(tmp_path)


def test_a_run_is_found_by_name_or_as_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no run below"):
        runs.find(None)
    folder = runs.create(replace(Config(), run="runs/first"))
    assert runs.find(None) == folder
    assert runs.find("runs/first") == folder
    assert runs.read_config(folder) == replace(Config(), run="runs/first")
    with pytest.raises(FileExistsError, match="already holds a run"):
        runs.create(replace(Config(), run="runs/first"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ed", "a.nii"], "--ed and --es go together"),
        (["--ed", "a.nii", "--es", "b.nii", "--patient", "patient001"], "leave --patient"),
        (["--frames", "1"], "--frames is 1"),
    ],
)
def test_sampling_flags_that_contradict_are_refused(args: list[str], message: str):
    with pytest.raises(SystemExit, match=message):
        parse_sample(args)
