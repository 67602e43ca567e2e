"""README.md and docs/: links lead somewhere, commands have flags that the programs know."""

import io
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tyro

from kernels.bench import measure as scan_bench
from kernels.device_check import __main__ as device_check
from mstg_jax import runs
from mstg_jax.bench import __main__ as bench
from mstg_jax.cli import parse_sample, parse_train
from mstg_jax.config import PRESETS
from mstg_jax.data import verify
from mstg_jax.evaluation import __main__ as evaluation
from mstg_jax.interop import __main__ as interop
from mstg_jax.plan import __main__ as plan
from mstg_jax.sweep import __main__ as sweep
from mstg_jax.sweep.cells import cells, split

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def parse_verify(argv: list[str]) -> None:
    assert verify.main(argv) == 0


def parse_training(argv: list[str]) -> None:
    if (asked := split(argv)) is None:
        parse_train(argv)
    else:
        cells(parse_train(asked.argv), asked.axes, asked.form)


# What reads each program's flags, and the arguments with which --help lists all of them.
PROGRAMS: dict[str, tuple[Callable[[list[str]], Any], tuple[str, ...]]] = {
    "train.py": (parse_training, ("demo",)),
    "sample.py": (parse_sample, ()),
    "mstg_jax.evaluation": (lambda argv: tyro.cli(evaluation.Settings, args=argv), ()),
    "mstg_jax.interop": (lambda argv: tyro.cli(interop.Command, args=argv), ("from-torch",)),
    "mstg_jax.bench": (lambda argv: tyro.cli(bench.Settings, args=argv), ()),
    "mstg_jax.plan": (plan.parse, ("demo",)),
    "mstg_jax.sweep": (lambda argv: tyro.cli(sweep.Settings, args=argv), ()),
    "mstg_jax.data.acdc": (parse_verify, ("verify",)),
    "kernels.bench": (lambda argv: tyro.cli(scan_bench.Settings, args=argv), ()),
    "kernels.device_check": (device_check.parse, ()),
}


class Command(NamedTuple):
    page: str
    program: str
    argv: list[str]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    return FENCE.sub("", read(page))


def inline(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def commands(page: Path, text: str) -> Iterator[Command]:
    """Those of the project in lines of a shell, or in inline code."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part.partition(" > ")[0], comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words[:1] == ["python"]:
                program, *argv = words[2:] if words[1] == "-m" else words[1:]
                yield Command(page.name, program, argv)


FENCED = [
    command
    for page in PAGES
    for language, text in FENCE.findall(read(page))
    if language != "python"
    for command in commands(page, text)
]
INLINE = [
    command
    for page in PAGES
    for code in inline(page)
    if code.startswith("python ")
    for command in commands(page, code)
]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@cache
def flags(program: str) -> frozenset[str]:
    """What --help lists."""
    parse, argv = PROGRAMS[program]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setenv("COLUMNS", "1000")  # lines so long that no flag is cut
        with suppress(SystemExit):
            parse([*argv, "--help"])
    return frozenset(re.findall(r"--[a-z][a-z0-9.-]*", printed.getvalue()))


def test_the_readme_is_short_and_links_every_page():
    assert len(read(README).splitlines()) <= 150
    linked = {link.partition("#")[0] for link in links(README)}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_section_test_has_one_command():
    """.ci/run takes it from there."""
    (section,) = re.findall(r"^## Test\n(.*?)^## ", read(README), re.MULTILINE | re.DOTALL)
    ((_, command),) = FENCE.findall(section)
    assert "pytest" in command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_commands_of_all_programs_are_found():
    assert {command.program for command in FENCED} == PROGRAMS.keys()


@pytest.mark.parametrize(
    "command", FENCED, ids=lambda c: f"{c.page}: {shlex.join([c.program, *c.argv])}"
)
def test_fenced_commands_are_understood(command: Command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify, "verify", lambda root: 0)
    if "--resume" in command.argv:
        runs.create(replace(PRESETS["demo"][1], run="runs/NAME"))
    parse, _ = PROGRAMS[command.program]
    try:
        parse(command.argv)
    except SystemExit as stop:
        pytest.fail(f"{command.program} {shlex.join(command.argv)} exits with {stop.code}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_the_text_are_known(page: Path):
    """Of commands those of their program; alone, those of any, `--name.` for a group of them."""
    for command in INLINE:
        if command.page == page.name:
            given = {word for word in command.argv if word.startswith("--")}
            assert given <= flags(command.program) | {"--help"}, command
    known = frozenset[str]().union(*map(flags, PROGRAMS))
    for code in inline(page):
        for word in code.split() if code.startswith("--") else ():
            group = word.endswith(".") and any(flag.startswith(word) for flag in known)
            assert not word.startswith("--") or word in known or group, code
