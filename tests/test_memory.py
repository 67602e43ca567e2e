"""Memory that a step has freed is there for the next one."""

import platform
import subprocess
import sys

import pytest

# Two blocks of 32 MB for the temporaries of each call, in a thread of XLA; the median of page faults.
PROGRAM = """
import resource
from mstg_jax.memory import keep_memory
{call}
import jax
from jax import numpy as jnp
import mstg_jax.methods, mstg_jax.training.checkpoint

@jax.jit
def step(x):
    for _ in range(8):
        x = jax.lax.optimization_barrier(jnp.sin(x))
    return x.sum()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

x = jnp.ones((64, 1 << 17))
counts = []
for _ in range(9):
    before = faults()
    step(x).block_until_ready()
    counts.append(faults() - before)
print(sorted(counts)[4])
"""
GLIBC = platform.libc_ver()[0] == "glibc"


def faults(call: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_later_steps_fault_in_no_memory():
    assert faults("assert keep_memory()") < 1000 < faults("")


@pytest.mark.parametrize("module", ["train", "sample", "mstg_jax.evaluation.__main__"])
def test_commands_start_without_threads(module):
    """Numpy and JAX start threads, after which the number of arenas is settled."""
    code = f"import sys, {module}; print([m for m in ('jax', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_another_allocator_is_left_alone(monkeypatch):
    from mstg_jax import memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_memory()
