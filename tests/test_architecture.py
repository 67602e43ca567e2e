"""Who may import whom, how long files may be, what of JAX may change, and `kernels` is ours."""

import ast
import re
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.sharding import AxisType, PartitionSpec

import kernels
from kernels.selective_scan.lowering import lower_by_platform
from kernels.selective_scan.varying import axes_of, shape_over

ROOT = Path(__file__).parents[1]
FILES = sorted(
    p
    for part in ("mstg_jax", "kernels", "tests", ".")
    for p in ROOT.glob(f"{part}/*.py" if part == "." else f"{part}/**/*.py")
)
# What each part may import of the project, besides itself.
ALLOWED = {
    "kernels": set(),
    "config": set(),
    "shapes": set(),
    "files": {"config"},
    "console": set(),
    "children": set(),
    "devices": set(),
    "command": {"config", "files", "console"},
    "runs": {"config", "files"},
    "cli": {"config", "runs"},
    "data": {"config", "shapes", "files"},
    "models": {"kernels", "config", "shapes"},
    "diffusion": {"config", "shapes"},
    "methods": {"models", "diffusion", "config", "shapes"},
    "evaluation": {"cycles", "hearts", "methods", "data", "config", "shapes"},
    "cycles": {"methods", "data", "config"},
    "hearts": {"methods", "models", "data", "config"},
    "training": {
        *("evaluation", "methods", "data", "config", "shapes", "files", "console", "children"),
    },
    "sweep": {
        *("training", "evaluation", "methods", "data", "cli", "runs", "config", "files"),
        "children",
    },
    "bench": {"training", "methods", "models", "config", "files"},
    "plan": {"training", "methods", "kernels", "devices", "config"},
    "interop": {"training", "methods", "diffusion", "config", "runs", "files"},
}
# A part's commands stand above the parts: what these files may import besides.
COMMANDS = {
    "evaluation/__main__.py": {"training", "cli", "runs", "files", "command"},
    "interop/__main__.py": {"command"},
    "bench/__main__.py": {"command"},
    "sweep/__main__.py": {"command"},
    "plan/__main__.py": {"command", "cli", "files"},
    "data/acdc.py": {"command"},
    "data/verify.py": {"command"},
}
# What the rooms of the evaluation, and the files that stand above them, may import of it.
EVALUATION = {
    "scoring": set(),
    "comparing": {"scoring"},
    "showing": {"scoring", "comparing"},
    "showing/tables": {"scoring"},  # sample.py needs it, and no scipy.stats
    "as_json": {"scoring"},
    "records": {"scoring", "comparing", "showing", "as_json"},
    "outputs": {"scoring", "showing"},
    "upsampling": {"scoring", "comparing", "showing", "as_json"},
    "__main__": {"comparing", "showing", "records", "upsampling"},
}
# The scan's backends, each in a room of its own: what of the op their files may import.
SCAN = ROOT / "kernels" / "selective_scan"
ROOMS = {
    "xla": {"form", "growth"},
    "gpu": {"form", "sizes"},
    "tpu": {"form", "growth", "sizes", "varying"},
}
# What JAX does not promise to keep: the one file that each name stands in, and with which of JAX's
# releases, from the first to the last, these files were tried.
INSIDE = {"mlir": "lowering.py", "avals_in": "lowering.py", "manual_axis_type": "varying.py"}
TRIED = (0, 10), (0, 12)
JAX = {"jax", "flax", "optax", "orbax"}
HOST = dict.fromkeys(("data", "cli", "runs", "files", "command", "console"), JAX)


def part(module: str) -> str:
    """mstg_jax.models.layers -> models; other modules -> their package."""
    names = module.split(".")
    return names[1] if names[0] == "mstg_jax" and len(names) > 1 else names[0]


def imports(path: Path) -> set[str]:
    """The parts and packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {part(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = node.module == "mstg_jax"
            found |= {a.name for a in node.names} if whole else {part(node.module or "")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_point_one_way(name):
    folder = ROOT / name if name == "kernels" else ROOT / "mstg_jax" / name
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    for path in paths:
        command = COMMANDS.get(f"{name}/{path.name}", set())
        forbidden = (ALLOWED.keys() | {"train", "sample"}) - ALLOWED[name] - {name} - command
        assert not imports(path) & (forbidden | HOST.get(name, set())), path


def test_every_part_has_its_rule():
    parts = {p.stem for p in (ROOT / "mstg_jax").iterdir() if not p.name.startswith("__")}
    assert parts <= ALLOWED.keys()


def test_settings_need_the_standard_library_only():
    for path in (ROOT / "mstg_jax" / "config").glob("*.py"):
        assert imports(path) <= sys.stdlib_module_names | {"config"}, path


def modules(path: Path, package: str = "kernels") -> set[str]:
    """Full names of what a file imports of a package: modules, and what it takes out of them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if f"{name}.".startswith(f"{package}.")}


def within(names: set[str], packages: set[str]) -> bool:
    return all(any(f"{name}.".startswith(f"{x}.") for x in packages) for name in names)


@pytest.mark.parametrize("room", EVALUATION)
def test_the_rooms_of_the_evaluation_point_one_way(room):
    folder = ROOT / "mstg_jax" / "evaluation" / room
    names = (room.replace("/", "."), *EVALUATION[room])
    allowed = {f"mstg_jax.evaluation.{x}" for x in names}
    for path in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        assert within(modules(path, "mstg_jax.evaluation"), allowed), path


def test_every_room_of_the_evaluation_has_its_rule():
    inside = (ROOT / "mstg_jax" / "evaluation").iterdir()
    names = {p.stem for p in inside if p.name not in ("__init__.py", "__pycache__")}
    assert names == {room for room in EVALUATION if "/" not in room}


@pytest.mark.parametrize("room", ROOMS)
def test_a_backend_needs_little_of_the_op_and_no_other_backend(room):
    allowed = {f"kernels.selective_scan.{x}" for x in (room, *ROOMS[room])}
    for path in (SCAN / room).rglob("*.py"):
        assert within(modules(path), allowed), path
    assert not imports(SCAN / room / "__init__.py")  # a name in it would load what is optional


def test_the_op_loads_no_backend_but_xla_and_measures_nothing():
    assert {p.parent.name for p in SCAN.glob("*/__init__.py")} == ROOMS.keys()
    own = {f"kernels.selective_scan.{p.stem}" for p in SCAN.glob("*.py")}
    for path in SCAN.glob("*.py"):
        chosen = {"kernels.selective_scan.xla"} if path.stem == "choose" else set()
        assert within(modules(path), own | chosen), path


@pytest.mark.parametrize("name", INSIDE)
def test_what_jax_may_change_stands_in_one_file(name):
    ours = [p for part in ("mstg_jax", "kernels") for p in (ROOT / part).rglob("*.py")]
    found = [p for p in ours if re.search(rf"\b{name}\b", p.read_text(encoding="utf-8"))]
    assert found == [SCAN / INSIDE[name]]


def test_what_jax_may_change_is_as_these_releases_have_it():
    """With another release: see that this holds, and the scan's other tests, then widen TRIED."""
    first, last = TRIED
    assert first <= tuple(map(int, version("jax").split(".")[:2])) <= last
    named = Primitive("named")
    named.multiple_results = True
    named.def_abstract_eval(lambda x: [x])
    lower_by_platform(named, lambda x, platform: [x + x if platform == "cpu" else x], ("cpu",))

    def local(own, same):
        assert axes_of(own).varying == {"x"}
        assert axes_of(same).varying == set()
        assert shape_over(axes_of(own), (3,), own.dtype).manual_axis_type == axes_of(own)
        return named.bind(own)[0]

    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    own, same = PartitionSpec("x"), PartitionSpec()
    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(own, same), out_specs=own))
    np.testing.assert_array_equal(run(jnp.ones(2), jnp.ones(2)), 2)
    traced = run.trace(jnp.ones(2), jnp.ones(2))
    assert "stablehlo.add" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.add" not in traced.lower(lowering_platforms=("rocm",)).as_text()


def calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def called(call: ast.Call) -> str:
    return ast.unparse(call.func)


def opens_text(call: ast.Call) -> bool:
    """Whether a call reads or writes text: a file, or the pipes of a process."""
    function, given = call.func, {word.arg: word.value for word in call.keywords}
    name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
    owner = ast.unparse(function).removesuffix(f".{name}")
    if name in ("read_text", "write_text"):
        return owner != "files"
    if name in ("open", "fdopen"):
        binary = any(re.fullmatch("'[rwax+]*b[+]?'", ast.unparse(x)) for x in call.args)
        return f"{owner}.{name}" not in ("Image.open", "os.open", "ts.KvStore.open") and not binary
    return "text" in given or "universal_newlines" in given


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_text_is_utf_8_in_any_locale(path):
    silent = [
        c for c in calls(path) if opens_text(c) and "encoding" not in {w.arg for w in c.keywords}
    ]
    assert not [f"line {c.lineno}: {ast.unparse(c)}" for c in silent], "name encoding="


# Where a result is printed; all else is said by logging (console.py).
PRINTS = {"train.py", "sample.py", "mstg_jax/command.py", "mstg_jax/data/verify.py"}
PRINTS |= {"kernels/device_check/exact.py", "kernels/device_check/speed.py"}
PRINTS |= {"mstg_jax/bench/worker.py", "kernels/bench/static.py", "mstg_jax/sweep/run.py"}


def test_only_commands_print():
    names = {p.relative_to(ROOT).as_posix() for p in FILES if "print" in map(called, calls(p))}
    others = {x for x in names if not x.startswith("tests/") and not x.endswith("__main__.py")}
    assert others == PRINTS


def test_kernels_is_ours():
    """Another package of that name is on PyPI."""
    assert Path(kernels.__file__).parent == ROOT / "kernels"
