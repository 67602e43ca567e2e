"""The scan under jax.vmap, remat and sharding, and the choice of its implementation."""

import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scan_oracle import arguments

from kernels.selective_scan import choose, explain, selective_scan


def scan(given, **options):
    given = jax.tree.map(jnp.asarray, given)
    y, last = selective_scan(**given, delta_softplus=True, return_last_state=True, **options)
    return y, last


def loss(given):
    y, last = scan(given)
    return jnp.sum(jnp.sin(y)) + jnp.sum(last)


def close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, wanted)


@pytest.mark.parametrize(
    ("mapped", "forms"),
    [
        (("u", "z"), ("varying", "constant")),
        (("A", "D"), ("grouped", "grouped")),
        (("B", "C", "h0"), ("varying", "constant")),
        (None, ("grouped", "grouped")),
    ],
)
def test_vmap_is_a_loop(mapped, forms):
    """Of values, and of gradients both ways round."""
    several = [arguments(9, *forms, seed=seed) for seed in range(3)]
    mapped = mapped or tuple(several[0])
    fixed = {name: x for name, x in several[0].items() if name not in mapped}
    each = [{name: x[name] for name in mapped} for x in several]
    stacked = {name: jnp.stack([x[name] for x in each]) for name in mapped}

    def stack(results):
        return jax.tree.map(lambda *x: jnp.stack(x), *results)

    over = jax.jit(jax.vmap(lambda own: scan(own | fixed)))
    one = jax.jit(lambda own: scan(own | fixed))
    close(over(stacked), stack([one(own) for own in each]))

    slopes = jax.jit(jax.vmap(lambda own: jax.grad(loss)(own | fixed)))
    slope = jax.jit(jax.grad(loss))
    wanted = [slope(own | fixed) for own in each]
    close(slopes(stacked), stack(wanted))

    total = jax.jit(jax.grad(lambda fixed: jnp.sum(jax.vmap(lambda o: loss(o | fixed))(stacked))))
    summed = jax.tree.map(lambda *x: sum(x), *({k: w[k] for k in fixed} for w in wanted))
    close(total(fixed), summed)


def test_remat_changes_nothing():
    given = arguments(70)
    plain, again = (jax.jit(jax.grad(f))(given) for f in (loss, jax.checkpoint(loss)))
    jax.tree.map(np.testing.assert_array_equal, plain, again)


@pytest.mark.parametrize("axis", ["batch", "channels"])
def test_sharded_scans_need_no_communication(axis):
    given = arguments(70, batch=4, d=8)
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    over_batch = {"u", "delta", "B", "C", "z", "h0"}
    specs = {
        "batch": {name: ("x",) for name in over_batch},
        "channels": {"u": (None, None, "x"), "delta": (None, None, "x"), "z": (None, None, "x")}
        | {"A": ("x",), "D": ("x",), "delta_bias": ("x",), "h0": (None, "x")},
    }[axis]
    placed = {
        name: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*specs.get(name, ()))))
        for name, x in given.items()
    }
    compiled = jax.jit(scan).lower(placed).compile()
    collectives = re.findall(r"all-\w+|collective-\w+|reduce-scatter", compiled.as_text())
    assert not collectives
    close(compiled(placed), scan(given))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    """A shared parameter's gradient is summed over the devices."""
    given = arguments(10, batch=4)
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    own = {"u", "delta", "B", "C", "z", "h0"}
    specs = {name: PartitionSpec("x") if name in own else PartitionSpec() for name in given}

    @jax.jit
    @jax.grad
    def slopes(given):
        local = jax.shard_map(
            lambda given: scan(given)[0],
            mesh=mesh,
            in_specs=(specs,),
            out_specs=PartitionSpec("x"),
            check_vma=check_vma,
        )
        return jnp.sum(jnp.sin(local(given)))

    whole = jax.jit(jax.grad(lambda given: jnp.sum(jnp.sin(scan(given)[0]))))
    close(slopes(given), whole(given))


def test_explain():
    assert explain(platform="cpu") == "sequential, the default on cpu"
    assert explain(platform="tpu") == "pallas_tpu, the default on tpu"
    assert explain("reference") == "reference, as named"
    assert explain(platform="rocm") == "associative: there is no kernel for rocm"
    assert explain("triton", "cpu") == "nothing: triton runs on cuda only"
    with pytest.raises(ValueError, match=r"'warp'.*reference, sequential, associative, triton"):
        explain("warp")


def test_a_gpu_without_its_kernel_is_told_why(monkeypatch, caplog):
    missing = {"triton": "it is not installed; install it"}
    monkeypatch.setattr(choose, "unavailable", missing.get)
    assert choose.implementation_for("cuda", None, double=False) is choose.xla.associative
    assert "selective_scan on cuda runs associative: triton cannot run, because it" in caplog.text
    assert explain(platform="cuda").startswith("associative: triton cannot run, because it is not")
    with pytest.raises(NotImplementedError, match=r"cannot run 'triton': .*install it"):
        scan(arguments(3), implementation="triton")


def test_a_kernel_is_not_lowered_for_another_platform(monkeypatch):
    monkeypatch.setattr(choose, "load", lambda name: choose.reference)
    with pytest.raises(NotImplementedError, match="'triton' runs on cuda only"):
        jax.jit(lambda given: scan(given, implementation="triton")).lower(arguments(3)).compile()


def test_kernels_have_no_float64(monkeypatch):
    monkeypatch.setattr(choose, "load", lambda name: choose.reference)
    with jax.enable_x64(True), pytest.raises(NotImplementedError, match="no float64; use float32"):
        scan({k: np.float64(x) for k, x in arguments(3).items()}, implementation="triton")
