"""The scan under jax.vmap, remat and sharding, and the choice of its implementation."""

import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scan_oracle import arguments, cotangents, errors, gradients

from kernels.selective_scan import choose, explain, selective_scan
from kernels.selective_scan.xla.chunked import associative


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


@pytest.mark.parametrize("implementation", [None, "reference"])
def test_vmap_over_no_examples(implementation):
    """Results and gradients of no examples; zeros for what all of them share."""
    given = jax.tree.map(jnp.asarray, arguments(9, "grouped", "constant"))
    own = {name: jnp.zeros((0, *given[name].shape), "bfloat16") for name in ("u", "B")}
    shared = {name: x for name, x in given.items() if name not in own}

    def run(own, shared):
        return jax.vmap(lambda own: scan(own | shared, implementation=implementation))(own)

    def total(own, shared):
        y, last = run(own, shared)
        return jnp.sum(y, dtype="float32") + jnp.sum(last)

    y, last = run(own, shared)
    assert (y.shape, y.dtype) == (own["u"].shape, "bfloat16")
    assert (last.shape, last.dtype) == ((0, *given["h0"].shape), "float32")
    by_own, by_shared = jax.grad(total, argnums=(0, 1))(own, shared)
    jax.tree.map(np.testing.assert_array_equal, by_own, own)
    jax.tree.map(lambda x, like: np.testing.assert_array_equal(x, 0 * like), by_shared, shared)
    pairs = jax.tree.map(lambda x: jnp.stack([x, x]), own)
    assert jax.vmap(run, in_axes=(0, None))(pairs, shared)[0].shape == pairs["u"].shape


@pytest.mark.parametrize("implementation", [None, "reference"])
def test_without_jit(implementation):
    given = jax.tree.map(jnp.asarray, arguments(3))
    wanted = scan(given), jax.grad(loss)(given)
    with jax.disable_jit():
        close((scan(given, implementation=implementation), jax.grad(loss)(given)), wanted)


def test_all_derivatives_of_the_reference():
    """Forward mode, and second derivatives both ways, against differences of exact gradients."""
    given = arguments(6, batch=1, d=2)
    dy, dlast = cotangents(given)
    rng = np.random.default_rng(0)
    v = {name: rng.standard_normal(x.shape).astype(np.float32) for name, x in given.items()}

    def linear(given):
        y, last = scan(given, implementation="reference")
        return jnp.sum(y * dy) + jnp.sum(last * dlast)

    def along(given):
        return jax.jvp(linear, (given,), (v,))[1]

    @jax.jit
    def derivatives(given):
        slope = jax.grad(linear)
        return along(given), jax.jvp(slope, (given,), (v,))[1], jax.grad(along)(given)

    def moved(by):
        return gradients({k: np.float64(x) + by * v[k] for k, x in given.items()}, dy, dlast)

    first, *second = derivatives(given)
    exact, (more, less) = moved(0), map(moved, (1e-4, -1e-4))
    np.testing.assert_allclose(first, sum(np.sum(exact[k] * v[k]) for k in v), rtol=1e-5)
    wanted = {name: (more[name] - less[name]) / 2e-4 for name in v}
    for found in second:
        assert max(errors(found, wanted).values()) < 1e-5


DERIVATIVES = {
    "hessian": lambda f, x: jax.hessian(f)(x),
    "gradient of a gradient": lambda f, x: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2))(x),
    "jvp": lambda f, x: jax.jvp(f, (x,), (x,)),
    "jvp of jit": lambda f, x: jax.jvp(jax.jit(f), (x,), (x,)),
    "jacfwd": lambda f, x: jax.jacfwd(f)(x),
    "jit of a jvp": lambda f, x: jax.jit(lambda x: jax.jvp(f, (x,), (x,)))(x),
    "gradient of a jvp": lambda f, x: jax.grad(lambda x: jax.jvp(f, (x,), (x,))[1])(x),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_other_derivatives_name_the_reference(name):
    given = jax.tree.map(jnp.asarray, arguments(3))
    with pytest.raises(NotImplementedError, match=r"no forward mode.*implementation='reference'"):
        DERIVATIVES[name](lambda u: loss(given | {"u": u}), given["u"])


@pytest.mark.parametrize("implementation", [None, "reference"])
def test_checkify_sees_a_nan(implementation):
    given = jax.tree.map(jnp.asarray, arguments(9))
    run = jax.jit(lambda given: scan(given, implementation=implementation))
    checked = checkify.checkify(run, errors=checkify.float_checks)
    assert checked(given)[0].get() is None
    spoiled = given | {"u": given["u"].at[0, 3, 0].set(jnp.nan)}
    assert "nan generated by primitive" in checked(spoiled)[0].get()


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
    assert choose.implementation_for("cuda", None, double=False) is associative
    assert "selective_scan on cuda runs associative: triton cannot run, because it" in caplog.text
    assert explain(platform="cuda").startswith("associative: triton cannot run, because it is not")
    with pytest.raises(NotImplementedError, match=r"cannot run 'triton': .*install it"):
        scan(arguments(3), implementation="triton")


def test_a_kernel_is_not_lowered_for_another_platform(monkeypatch):
    monkeypatch.setattr(choose, "unavailable", lambda name: None)
    with pytest.raises(NotImplementedError, match="'triton' runs on cuda only"):
        jax.jit(lambda given: scan(given, implementation="triton")).lower(arguments(3)).compile()
