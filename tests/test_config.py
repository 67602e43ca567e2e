"""Settings: presets are sound, survive JSON, and refuse what cannot work."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest

from mstg_jax import runs
from mstg_jax.cli import parse_sample, parse_train
from mstg_jax.config import (
    PRESETS,
    CGANConfig,
    ClusterConfig,
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    OptimConfig,
    R2NetConfig,
    SettingsError,
    TrainConfig,
    UKANConfig,
    UserError,
    differences,
    from_json,
    to_json,
)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound_and_survive_json(name: str):
    config = PRESETS[name][1]
    config.check()
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert parse_train([name]) == config


def test_flags_override_presets_and_demo_is_the_default():
    config = parse_train(["--data.skip-bad", "--model.mixer-stages", "1", "--train.steps", "7"])
    demo = PRESETS["demo"][1]
    assert config.data == replace(demo.data, skip_bad=True)
    assert config.model == replace(demo.model, mixer_stages=(1,))
    assert sorted(differences(demo, config)) == [
        "data.skip_bad: False -> True",
        "model.mixer_stages: (2,) -> (1,)",
        "train.steps: 400 -> 7",
    ]


def of_cluster(**settings: Any) -> Config:
    return Config(run="runs/r", cluster=ClusterConfig(**settings))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(model=ModelConfig(deformation_channels=(8,))), r"at least 2 stages"),
        (Config(cgan=CGANConfig(discriminator=())), r"cgan\.discriminator is \(\), but"),
        (
            Config(data=DataConfig(spacing=(3.15, 0.0, 1.5))),
            r"spacing is \(3\.15, 0\.0, 1\.5\), but",
        ),
        (Config(data=DataConfig(phantom_patients=(3, 0))), r"phantom_patients is \(3, 0\)"),
        (Config(data=DataConfig(validation=1.0)), r"must lie in \[0, 1\)"),
        (Config(model=ModelConfig(mixer_stages=(1, 4))), r"there are stages 0\.\.3"),
        (Config(model=ModelConfig(branches=())), r"branches is empty"),
        (Config(diffusion=DiffusionConfig(sampler_steps=0)), r"sampler_steps is 0"),
        (Config(r2net=R2NetConfig(blocks=0)), r"r2net\.blocks is 0"),
        (Config(ukan=UKANConfig(tokens=(0, 8))), r"ukan\.tokens is \(0, 8\)"),
        (Config(optim=OptimConfig(ema=1.0)), r"optim\.ema is 1\.0"),
        (Config(optim=OptimConfig(learning_rate=-1e-4)), r"optim\.learning_rate is -0\.0001"),
        (Config(train=TrainConfig(batch=0)), r"train\.batch is 0"),
        (Config(cluster=ClusterConfig(auto=True)), "a cluster needs --run"),
        (of_cluster(auto=True, processes=2), r"leave cluster\.processes out"),
        (of_cluster(coordinator="a:1"), r"needs cluster\.processes, cluster\.process_id"),
        (of_cluster(process_id=1), r"needs cluster\.coordinator, cluster\.processes"),
        (of_cluster(coordinator="a", processes=2, process_id=0), "must be HOST:PORT"),
        (of_cluster(coordinator="a:1", processes=2, process_id=2), "it is one of 0 to 1"),
        (of_cluster(timeout=0), r"cluster\.timeout is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(config: Config, message: str):
    with pytest.raises(SettingsError, match=message):
        config.check()


def test_runs_from_before_a_section_get_its_defaults():
    stored = to_json(PRESETS["ddm"][1])
    for section in ("r2net", "ukan", "cgan", "motion"):
        del stored[section]
    assert from_json(stored) == PRESETS["ddm"][1]


def test_runs_from_when_processes_were_joined_by_train_are_read():
    stored = to_json(PRESETS["ddm"][1])
    stored["train"]["distributed"] = True
    assert from_json(stored) == PRESETS["ddm"][1]


@pytest.mark.parametrize(("was", "now"), [(False, "none"), (True, "modules")])
def test_runs_from_when_modules_alone_were_computed_again_are_read(was: bool, now: str):
    stored = to_json(PRESETS["ddm"][1])
    stored["model"]["remat"] = was
    assert from_json(stored).model.remat == now


def test_runs_of_between_under_its_former_name_are_read():
    config = PRESETS["acdc-between"][1]
    stored = to_json(config)
    former = stored | {"method": "mstg", "motion": stored["motion"] | {"ends": "both"}}
    assert from_json(former) == config
    former = to_json(PRESETS["paper"][1])
    former["motion"]["ends"] = "ed"
    assert from_json(former) == PRESETS["paper"][1]


def test_runs_of_between_before_its_pyramid_are_refused_by_name():
    """Other methods' runs carried its settings along, and are read."""
    before = {"between": True, "frame_weight": 1e4, "coarse": True, "time_course": True}
    stored = to_json(PRESETS["acdc-between"][1]) | {"motion": before | {"residual": True}}
    with pytest.raises(ValueError, match=r"motion\.coarse is now motion\.channels") as caught:
        from_json(stored)
    assert "Train preset acdc-between anew" in str(caught.value)
    with pytest.raises(ValueError, match="acdc-between anew"):
        from_json(stored | {"method": "mstg", "motion": before | {"ends": "both"}})
    assert from_json(to_json(PRESETS["ddm"][1]) | {"motion": before}) == PRESETS["ddm"][1]


def test_unknown_stored_setting_names_the_file(tmp_path):
    stored = to_json(Config())
    stored["model"]["banana"] = 1
    (tmp_path / "config.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"config\.json .*unknown settings.*banana"):
        runs.read_config(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b'{"train": {"steps": 3', b"[]", b'{"train": 3}', b"\xff\xfe"]
)
def test_a_damaged_config_is_one_line(tmp_path, content: bytes):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"config\.json cannot be read as a run's settings"):
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
    with pytest.raises(FileExistsError, match="another folder to --run"):
        parse_train(["--run", "runs/first"])


def at_once(count: int, call) -> list[object]:
    """What so many threads' calls return or raise, which start together."""
    barrier = Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        try:
            return call(number)
        except FileExistsError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def rates(folders) -> list[float]:
    return sorted(runs.read_config(folder).optim.learning_rate for folder in folders)


def of_rate(number: int, run: str | None = None) -> Config:
    return replace(Config(run=run), optim=OptimConfig(learning_rate=number + 1.0))


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260131-120000")
    found = at_once(6, lambda number: runs.create(of_rate(number)))
    stem = "mstg-20260131-120000"
    assert {f.name for f in found} == {stem, *(f"{stem}-{n}" for n in range(2, 7))}
    assert rates(found) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("links", [True, False])
def test_one_of_two_runs_gets_a_named_folder(tmp_path, monkeypatch, links: bool):
    """Also where there is a folder without a run, and on a drive that knows no hard links."""
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "notes.txt").touch()
    found = at_once(6, lambda number: runs.create(of_rate(number, str(tmp_path))))
    (winner,) = (i for i, x in enumerate(found) if x == tmp_path)
    assert rates([tmp_path]) == [winner + 1]
    assert all("already holds a run" in str(x) for i, x in enumerate(found) if i != winner)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "notes.txt"]


def test_settings_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = runs.create(Config(run=str(tmp_path / "run")))
    before = (folder / "config.json").read_bytes()
    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("pathlib.Path.replace", full)
    longer = replace(Config(), train=TrainConfig(steps=7))
    with pytest.raises(UserError, match=r"--run .*run cannot be written: No space left on device"):
        runs.remember(folder, longer)
    assert [p.name for p in folder.iterdir()] == ["config.json"]
    assert (folder / "config.json").read_bytes() == before
    with pytest.raises(UserError, match=r"--run .*other cannot be written: No space"):
        runs.create(Config(run=str(tmp_path / "other")))


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/below"])
def test_a_run_that_cannot_be_written_is_refused_by_flag_path_and_reason(tmp_path, where: str):
    (tmp_path / "file").touch()
    path = str(tmp_path / where)
    with pytest.raises(UserError, match=rf"--run {path} cannot be written: \w+.*\({path}"):
        runs.create(Config(run=path))


def test_what_a_resumed_run_is_to_do_is_remembered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = runs.create(replace(Config(), run="runs/r"))
    age = (1, folder.joinpath("config.json").stat().st_mtime_ns - 10**9)
    os.utime(folder / "config.json", ns=age)
    runs.create(replace(Config(), run="runs/newer"))
    flags = ["--train.steps", "4000", "--train.keep", "5", "--data.root", "moved"]
    started = ["--cluster.auto", "--resume", "--run", "runs/r"]
    runs.remember(folder, parse_train([*started, *flags]))
    stored = runs.read_config(folder)
    assert (stored.train.steps, stored.train.keep, stored.data.root) == (4000, 5, "moved")
    assert (stored.run, stored.resume, stored.cluster.auto) == ("runs/r", False, False)
    assert parse_train(["--resume", "--run", "runs/r"]).train.steps == 4000
    assert runs.find(None).name == "newer"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ed", "a.nii"], "--ed and --es go together"),
        (
            ["--ed", "a.nii", "--es", "b.nii", "--patient", "patient001"],
            "--es and --patient each name what to sample",
        ),
        (["--ed", "a.nii", "--es", "b.nii", "--labels"], "--labels warps a patient's own labels"),
        (["--frames", "1"], "--frames is 1"),
    ],
)
def test_sampling_flags_that_contradict_are_refused(args: list[str], message: str):
    with pytest.raises(SettingsError, match=message):
        parse_sample(args)
