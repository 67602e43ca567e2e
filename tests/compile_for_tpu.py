"""Compile both passes of the scan for TPUs that are not here; print the memory that they need.

A program, because libtpu is found by the environment: `python tests/compile_for_tpu.py v5e v6e`,
with --all for bfloat16 and all forms of the arguments.
A line has target, case, type, pass, and MB of arguments, outputs and temporary arrays in the TPU's
memory. XLA keeps small temporary arrays on the chip: they are not counted.
"""

import sys
from functools import partial
from typing import NamedTuple

from mstg_jax.plan import topology as topologies

TARGETS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
topologies.prepare(topologies.parsed("v5e:2x2"))

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from kernels.selective_scan import selective_scan
from kernels.selective_scan.form import Arguments, Options, chunk_length, chunks
from kernels.selective_scan.tpu import launch as tpu


class Case(NamedTuple):
    b: int
    l: int  # noqa: E741
    d: int
    n: int = 16
    g: int = 1
    B: str = "varying"
    C: str = "varying"
    reverse: bool = False
    bare: bool = False  # without D, z, delta_bias and softplus


WORKLOADS = {
    "524288x16": Case(1, 524288, 16),
    "65536x32": Case(1, 65536, 32),
    "8192x64": Case(1, 8192, 64),
    "1024x64": Case(1, 1024, 64),
    "8x1024x64": Case(8, 1024, 64),
    "8x2048x1536": Case(8, 2048, 1536),
}
FORMS = {
    "grouped": Case(2, 3000, 24, g=4),
    "wide-groups": Case(1, 2048, 256, g=2),
    "uneven": Case(1, 1134, 1000, n=24),
    "many-channels": Case(1, 700, 100, n=3),
    "one-token": Case(1, 1, 1, n=1),
    "reverse": Case(1, 5000, 64, reverse=True),
    "wide-reverse": Case(1, 1500, 136, reverse=True),
    "constant-B": Case(1, 2048, 32, B="constant"),
    "constant": Case(1, 2048, 160, B="constant", C="constant"),
    "bare": Case(1, 2048, 160, bare=True),
    "n64": Case(1, 8192, 64, n=64),
    "n64-wide": Case(1, 2048, 256, n=64),
    "n256": Case(1, 2048, 64, n=256),
    "n256-wide": Case(1, 2048, 256, n=256),
}


def programs(case, dtype, device):
    """The compiled forward and backward pass."""
    sharding = SingleDeviceSharding(device)

    def shape(*axes, of=jnp.float32):
        return jax.ShapeDtypeStruct(axes, of, sharding=sharding)

    b, l, d, n = case[:4]  # noqa: E741
    tokens = shape(b, l, d, of=dtype)
    forms = {"varying": shape(b, l, case.g, n, of=dtype), "constant": shape(d, n)}
    optional = (None, None, None) if case.bare else (shape(d), tokens, shape(d))
    B, C = forms[case.B], forms[case.C]
    args = (tokens, tokens, shape(d, n), B, C, *optional, shape(b, d, n))
    options = Options(not case.bare, case.reverse, chunk_length(b, l, d))

    def backward(args, entries, dy, dlast):
        return tpu.backward(Arguments(*args), entries, dy, dlast, options)

    entries = shape(b, chunks(l, options), d, n)
    yield (
        "forward",
        jax.jit(lambda args: tpu.forward(Arguments(*args), options)).lower(args).compile(),
    )
    yield "backward", jax.jit(backward).lower(args, entries, tokens, shape(b, d, n)).compile()


def sharded(devices):
    """Value and gradients of the default implementation inside shard_map."""
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    own, same = PartitionSpec("data"), PartitionSpec()

    def shape(spec, *axes):
        return jax.ShapeDtypeStruct(axes, jnp.float32, sharding=NamedSharding(mesh, spec))

    scan = jax.shard_map(
        partial(selective_scan, delta_softplus=True),
        mesh=mesh,
        in_specs=(own, own, same, own, own),
        out_specs=own,
    )
    tokens, B = shape(own, 4, 1024, 64), shape(own, 4, 1024, 16)
    run = jax.jit(jax.grad(lambda *args: jnp.sum(jnp.sin(scan(*args))), argnums=(0, 1, 2, 3, 4)))
    return run.lower(tokens, tokens, shape(same, 64, 16), B, B).compile()


def report(target, name, dtype, which, compiled):
    assert f"selective_scan_{which}" in compiled.as_text()
    found = compiled.memory_analysis()
    sizes = (
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.temp_size_in_bytes - found.alias_size_in_bytes,
    )
    megabytes = " ".join(f"{x / 2**20:.3f}" for x in sizes)
    print(target, name, dtype.__name__, which, megabytes, flush=True)


def cases(every):
    yield from ((k, case, jnp.float32) for k, case in WORKLOADS.items())
    if not every:
        return
    yield from ((k, case, jnp.bfloat16) for k, case in WORKLOADS.items())
    yield from ((k, case, jnp.float32) for k, case in FORMS.items())
    yield "half", WORKLOADS["8192x64"], jnp.float16
    yield "wide-groups", FORMS["wide-groups"], jnp.bfloat16


def main(targets, flags):
    for target in targets:
        devices = topologies.devices(topologies.parsed(TARGETS[target]))
        for name, case, dtype in cases("--all" in flags):
            for which, compiled in programs(case, dtype, devices[0]):
                report(target, name, dtype, which, compiled)
        compiled = sharded(devices)
        for which in ("forward", "backward"):
            report(target, "sharded", jnp.float32, which, compiled)


if __name__ == "__main__":
    main(*([x for x in sys.argv[1:] if x.startswith("--") == flag] for flag in (False, True)))
