"""Shapes and types of every signature are checked, and JAX runs strictly, on 4 CPU devices.

Tests compile much and compute little: without LLVM's optimisations they take half the time, and
without XLA's newer emitters of fusions a third less again. The programs that test_end_to_end.py
starts keep these emitters.
"""

import os
import signal
import sys
from collections import defaultdict
from importlib.metadata import version
from itertools import chain

import pytest
from jaxtyping import install_import_hook

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TRITON_INTERPRET"] = "1"  # before any import of triton; PyTorch imports it, too
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)
if version("jax").startswith("0.10."):  # a later XLA stops at this flag: it has no other emitters
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Ignored where the tests were started in a script's background, and then by their programs, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
install_import_hook(["mstg_jax", "kernels"], "beartype.beartype")

import jax  # noqa: E402  after its environment
from hypothesis import settings  # noqa: E402

# Not by environment variables: the programs that tests start run as a user's would.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """flax's GraphDef is annotated with typing.Hashable, which beartype warns about."""
    config.addinivalue_line(
        "filterwarnings", "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning"
    )


@pytest.fixture
def commands_in(monkeypatch):
    """A function of the folder to call train.main and sample.main in.

    Compiled programs are not kept: the setting would outlive the test.
    """
    monkeypatch.setattr("mstg_jax.methods.platform.prepare", lambda *configs: None)
    return monkeypatch.chdir


@pytest.fixture(autouse=True)
def measured_errors(request, record_property):
    """What a test found with `parity.relative`, for the table at the end."""
    errors = getattr(sys.modules.get("parity"), "errors", [])
    errors.clear()
    yield
    name = request.node.name
    dtype = next((x for x in ("float32", "float64") if x in name), "")
    for what, error in errors:
        record_property("error", (f"{name.split('[')[0]}: {what}", dtype, error))


def pytest_terminal_summary(terminalreporter):
    largest = defaultdict(float)
    for report in chain.from_iterable(terminalreporter.stats.values()):
        for name, value in getattr(report, "user_properties", ()):
            if name == "error":
                largest[*value[:2]] = max(largest[*value[:2]], value[2])
    if largest:
        terminalreporter.section("largest errors beside PyTorch")
    for (quantity, dtype), error in largest.items():
        terminalreporter.line(f"{quantity:40} {dtype:8} {error:.1e}")


# `pytest --hypothesis-profile=many` for a long look.
settings.register_profile("few", max_examples=8)
settings.register_profile("many", max_examples=200)
settings.load_profile("few")
