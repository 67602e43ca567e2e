"""What a step takes of devices that are not here: what is counted, chosen and said."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest
from jax import lax
from jax import numpy as jnp

from mstg_jax.config import PRESETS, SettingsError
from mstg_jax.devices import DEVICES
from mstg_jax.models import conv3d
from mstg_jax.plan import fit
from mstg_jax.plan.fit import Planner, estimate
from mstg_jax.plan.program import Collective, Program, compiled
from mstg_jax.plan.text import collectives, scans, size, traffic
from mstg_jax.plan.topology import GPUS, TPUS, parsed
from mstg_jax.training.operations import operations

ROOT = Path(__file__).parents[1]
V5E = DEVICES["TPU v5 lite"]


def counted(function, *args, platform="cuda"):
    return operations(jax.jit(function).trace(*args).jaxpr.jaxpr, platform)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x, k: x[0, 0, 0] @ k[0, 0, 0], 2 * 8 * 5 * 7),
        (conv3d.conv3d, 2 * 4 * 6 * 8 * 7 * 27 * 5),
        (lambda x, k: conv3d.conv3d(x, k, stride=2), 2 * 2 * 3 * 4 * 7 * 27 * 5),
        (conv3d.conv3d_transpose_twice, 2 * 8 * 12 * 16 * 7 * 27 * 5 / 8),
        (lambda x, k: lax.map(lambda one: conv3d.conv3d(one, k), jnp.stack([x, x])), 2 * 362880),
        (lambda x, k: (conv3d.conv3d(x, k), jnp.sin(x))[1], 0),
    ],
    ids=["product", "convolution", "stride", "transpose", "loop", "not needed"],
)
def test_operations_of_products(function, wanted):
    x, k = jnp.zeros((1, 4, 6, 8, 5)), jnp.zeros((3, 3, 3, 5, 7))
    assert counted(function, x, k) == wanted


def test_a_gradient_is_counted_without_the_value():
    x, k = jnp.zeros((1, 4, 6, 8, 5)), jnp.zeros((3, 3, 3, 5, 7))
    once = counted(conv3d.conv3d, x, k)

    def gradients(x, k):
        return jax.grad(lambda *args: jnp.sum(conv3d.conv3d(*args) ** 2), argnums=(0, 1))(x, k)

    assert counted(gradients, x, k) == 3 * once  # the value is needed for its square
    # On a CPU the convolution has another form, which multiplies with zeros, too.
    assert counted(conv3d.conv3d_nearest_twice, x, k, platform="cpu") != counted(
        conv3d.conv3d_nearest_twice, x, k, platform="tpu"
    )


TEXT = """
%inside (a: f32[8]) -> f32[8] {
  ROOT %sum = f32[8]{0} add(%a, %a)
}
%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%b), index=1
  ROOT %f = f32[8]{0} fusion(%x), kind=kLoop, calls=%inside
}
ENTRY %main (p: f32[8], q: bf16[2,4]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %q = bf16[2,4]{1,0} parameter(1)
  %w = (s32[], f32[8]{0}) while(%p), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %r-start = f32[8]{0} all-reduce-start(%p), channel_id=1
  %r-done = f32[8]{0} all-reduce-done(%r-start)
  %k = (f32[8]{0}, u8[0]{0}) custom-call(%q, %p), metadata={op_name="selective_scan_outputs"}
  ROOT %c = f32[8]{0} copy(%p)
}
"""


def test_what_a_program_reads_and_writes():
    """32 bytes each of p and of what is made of it, 16 of q."""
    assert size("(f32[8]{0}, bf16[2,4]{1,0}, pred[], u8[0]{0})") == 32 + 16 + 1
    assert size("f32[3,130,5]{1,2,0:T(8,128)}") == 4 * 3 * 130 * 5
    assert size("f32[3,130,5]{1,2,0:T(8,128)}", padded=True) == 4 * 3 * 256 * 8
    assert size("(f32[5]{0:T(128)}, f32[]{:T(128)})", padded=True) == 4 * (128 + 1)
    assert traffic(TEXT) == 5 * 64 + 64 + (32 + 16 + 32) + 64
    assert list(collectives(TEXT)) == [Collective("all-reduce", 32)]
    assert scans(TEXT) == 1


@pytest.mark.parametrize("preset", ["acdc-between-tiny", "paper-tiny", "direct-tiny"])
def test_data_parallel_steps_exchange_the_gradients_alone(preset):
    """All of a step's collectives, on four devices."""
    config = PRESETS[preset][1]
    found = compiled(
        replace(config, train=replace(config.train, batch=4)), jax.devices()[:4], "cpu"
    )
    assert {x.kind for x in found.collectives} == {"all-reduce"}
    assert sum(x.bytes for x in found.collectives) <= 1.1 * found.parameters
    assert found.operations > 0
    assert found.traffic > found.parameters
    assert found.peak == found.arguments + found.temporaries > 3 * found.parameters


def test_an_estimate_is_what_the_data_sheet_allows():
    program = Program(4, 0, 0, 197e9, 819_000_000 * 3, (Collective("all-reduce", 50_000_000),), 0)
    found = estimate(program, V5E, "float32")
    assert found == pytest.approx((1e-3, 3e-3, 1e-3))
    assert found.seconds == pytest.approx(4e-3)
    assert found.bound == "memory"
    assert estimate(program._replace(traffic=0), V5E, "bf16").bound == "products"


@pytest.mark.parametrize(("each", "fixed"), [(1.7e9, 0.1e9), (3e9, 2e9), (0.3e9, 1e9)])
def test_the_largest_batch_is_found_by_few_programs(monkeypatch, each, fixed):
    """Of devices with 16 GB, where one example needs so much; more than 16 GB do not compile."""
    asked = []

    def small(config, devices, platform):
        own = config.train.batch // len(devices)
        asked.append(own)
        if fixed + own * each > V5E.memory:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: hbm")
        return Program(4, 0, int(fixed + own * each), 1.0, 1, (), 0)

    monkeypatch.setattr(fit, "compiled", small)
    planner = Planner(PRESETS["demo"][1], range(4), "tpu", V5E)
    assert planner.asked == 4
    first = planner.program(4)
    assert first is not None
    batch, found = planner.largest(4, first)
    assert batch % 4 == 0
    assert found.peak <= V5E.memory
    assert found.peak >= 0.9 * V5E.memory or found.peak + each > V5E.memory
    assert len(asked) <= 5


def test_other_errors_of_the_compiler_are_not_a_full_memory(monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such tile")

    monkeypatch.setattr(fit, "compiled", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no such tile"):
        Planner(PRESETS["demo"][1], range(4), "tpu", V5E).program(4)


@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1", "V6E:4x4", "h100:16", "a100:1", "h200:8"])
def test_topologies_by_name(name):
    topology = parsed(name)
    assert str(topology) == name.lower()
    assert topology.platform == ("cuda" if topology.name in GPUS else "tpu")
    assert topology.name in {*GPUS, *TPUS}


@pytest.mark.parametrize("name", ["", "v5e", "v5e:16", "v5p:2x2", "h100:2x2", "v4:2x2", "h100:0"])
def test_others_are_refused(name):
    with pytest.raises(SettingsError, match=r"as v5e:16x16, v6e:4x4 or v5p:2x2x1"):
        parsed(name)


def planned(*argv, **env):
    command = [sys.executable, "-m", "mstg_jax.plan", *argv]
    hidden = ("XLA_FLAGS", "JAX_PLATFORMS", "TRITON_INTERPRET")
    clean = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.run(
        command, cwd=ROOT, env=clean | env, capture_output=True, encoding="utf-8", check=False
    )


def test_wrong_flags_are_one_line():
    done = planned("demo-tiny", "--topology", "v5e:16")
    assert done.returncode == 1
    assert done.stderr.startswith("plan: --topology is 'v5e:16'; it is the shape of")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="needs a machine without libtpu")
def test_a_missing_compiler_is_named():
    done = planned("demo-tiny", "--topology", "v5e:2x2")
    assert done.stderr == "plan: v5e:2x2 needs XLA's compiler for TPUs: pip install libtpu\n"


@pytest.mark.skipif(
    not all(find_spec(name) for name in ("jax_triton", "jax_cuda12_plugin")),
    reason="needs jax-triton and the CUDA plugin: pip install 'jax[cuda12]' jax-triton",
)
@pytest.mark.parametrize("topology", ["h100:4", "a100:16"])
def test_plan_for_gpus(topology, tmp_path):
    """The scan's kernels are in the step, and the batch stays where it is."""
    out = tmp_path / "plan.json"
    done = planned("acdc-small-tiny", "--topology", topology, "--asked-only", "--json", str(out))
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    asked, count = found["asked"], int(topology.split(":")[1])
    assert found["devices"] == asked["batch"] == count
    assert asked["fits"]
    scans = 5  # acdc-small-tiny's Mamba modules
    # Of each the states and outputs forward, the adjoints and gradients backward, two carries.
    assert asked["scans"] == 6 * scans
    assert {x["kind"] for x in asked["collectives"]} == {"all-reduce"}
    assert f"| asked | {count} | 1 |" in done.stdout


@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu: pip install libtpu")
def test_plan_for_tpus(tmp_path):
    out = tmp_path / "plan.json"
    argv = ("acdc-small-tiny", "--topology", "v5e:2x2", "--asked-only", "--json", str(out))
    done = planned(*argv, "--model.channels", "4", "4")
    assert done.returncode == 0, done.stderr[-4000:]
    asked = json.loads(out.read_text(encoding="utf-8"))["asked"]
    assert asked["scans"] > 0
    assert {x["kind"] for x in asked["collectives"]} == {"all-reduce"}
    assert asked["seconds"] > 0
