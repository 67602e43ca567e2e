"""The scan against a float64 loop: values, gradients, memory, and error messages."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from kernels.selective_scan import selective_scan

IMPLEMENTATIONS = ("reference", "sequential", "associative")
full = jax.jit(
    partial(selective_scan, delta_softplus=True, return_last_state=True),
    static_argnames="implementation",
)


def arguments(length, B="varying", C="varying", *, batch=2, d=4, n=3):
    rng = np.random.default_rng(length)
    shapes = {"varying": (batch, length, n), "grouped": (batch, length, 2, n), "constant": (d, n)}

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "u": draw(batch, length, d),
        "delta": draw(batch, length, d),
        "A": -np.exp(draw(d, n)),
        "B": draw(*shapes[B]),
        "C": draw(*shapes[C]),
        "D": draw(d),
        "z": draw(batch, length, d),
        "delta_bias": draw(d) - 1,
        "h0": draw(batch, d, n),
    }


def definition(u, delta, A, B, C, D=0.0, z=None, delta_bias=0.0, h0=0.0, softplus=True):
    """mamba's selective_scan_ref as a loop in float64."""
    (batch, length, d), n = u.shape, A.shape[1]

    def per_channel(M):
        M = M[:, :, None] if M.ndim == 3 else M
        return np.repeat(M, d // M.shape[2], axis=2) if M.ndim == 4 else M[None, None]

    B, C = (np.broadcast_to(per_channel(np.float64(M)), (batch, length, d, n)) for M in (B, C))
    delta = np.float64(delta) + delta_bias
    delta = np.logaddexp(0, delta) if softplus else delta
    state, y = np.zeros((batch, d, n)) + h0, np.zeros((batch, length, d))
    for i in range(length):
        step = delta[:, i, :, None]
        state = np.exp(step * A) * state + step * B[:, i] * u[:, i, :, None]
        y[:, i] = np.sum(state * C[:, i], axis=-1) + D * u[:, i]
    return (y if z is None else y * z / (1 + np.exp(-np.float64(z)))), state


def assert_same(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("length", [1, 7, 255, 257, 300])
def test_values(length, implementation):
    given_ = arguments(length)
    assert_same(full(**given_, implementation=implementation), definition(**given_))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("B", "C"),
    [("grouped", "grouped"), ("constant", "varying"), ("grouped", "constant")],
)
def test_forms_of_B_and_C(B, C, implementation):
    given_ = arguments(7, B, C)
    assert_same(full(**given_, implementation=implementation), definition(**given_))


def test_the_default_and_nothing_optional():
    given_ = {name: arguments(300)[name] for name in ("u", "delta", "A", "B", "C")}
    given_["delta"] = np.abs(given_["delta"])
    y = jax.jit(selective_scan)(**given_)
    assert isinstance(y, jax.Array)  # no last state
    np.testing.assert_allclose(y, definition(**given_, softplus=False)[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("length", "B", "C"), [(300, "varying", "varying"), (9, "grouped", "constant")]
)
def test_gradients(length, B, C, implementation):
    """Of every input, through y and the last state, against differences of the float64 loop."""
    given_ = arguments(length, B, C)
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(x.shape) for x in definition(**given_)]

    @jax.jit
    @jax.grad
    def gradient(given_):
        out = selective_scan(
            **given_, delta_softplus=True, return_last_state=True, implementation=implementation
        )
        return sum(jnp.sum(x * jnp.float32(w)) for x, w in zip(out, weights, strict=True))

    def objective(given_):
        return sum(np.sum(x * w) for x, w in zip(definition(**given_), weights, strict=True))

    for name, slope in gradient(given_).items():
        direction = rng.standard_normal(given_[name].shape)
        ahead, behind = (
            objective(given_ | {name: given_[name] + e * direction}) for e in (1e-5, -1e-5)
        )
        np.testing.assert_allclose(
            np.sum(slope * direction),
            (ahead - behind) / 2e-5,
            rtol=1e-3,
            atol=2e-3,
            err_msg=name,
        )


def test_half_precision_is_float32_inside():
    half = {name: jnp.asarray(x, jnp.bfloat16) for name, x in arguments(40).items()}
    y, last = full(**half)
    y32, last32 = full(**{name: x.astype(jnp.float32) for name, x in half.items()})
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(y.astype(jnp.float32), y32, rtol=2**-8)  # one rounding
    np.testing.assert_allclose(last, last32, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("implementation", "forward", "backward"),
    [("sequential", 0.35, 0.5), ("associative", 0.4, 0.75), ("reference", 0.35, None)],
)
def test_no_state_per_token_in_memory(implementation, forward, backward):
    """Temporaries as a share of b*l*d*n floats: a few arrays of b*l*d, each of 1 / n = 0.06.

    The readable reference saves every state for its gradient, which shows that this would be seen.
    """
    length, d, n = 16384, 32, 16
    like = arguments(1, batch=1, d=d, n=n)
    shapes = {k: jax.ShapeDtypeStruct((1, length, *x.shape[2:]), x.dtype) for k, x in like.items()}
    for name in ("A", "D", "delta_bias", "h0"):
        shapes[name] = jax.ShapeDtypeStruct(like[name].shape, jnp.float32)

    def loss(given_):
        return jnp.sum(selective_scan(**given_, delta_softplus=True, implementation=implementation))

    def share(function):
        compiled = jax.jit(function).lower(shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (length * d * n * 4)

    assert share(loss) < forward
    assert share(jax.grad(loss)) < backward if backward else share(jax.grad(loss)) > 1


@settings(max_examples=5, deadline=None)
@given(cut=st.integers(1, 263))
def test_two_halves_with_the_state_handed_over_are_one_scan(cut):
    given_ = arguments(264)
    along = ("u", "delta", "B", "C", "z")
    first = given_ | {name: given_[name][:, :cut] for name in along}
    second = given_ | {name: given_[name][:, cut:] for name in along}
    y1, state = full(**first)
    y2, last = full(**second | {"h0": state})
    assert_same((jnp.concatenate([y1, y2], axis=1), last), full(**given_))


WRONG = [
    ({"u": (5, 4)}, r"u must be \(b l d\).*shape is \(5, 4\)"),
    ({"u": (2, 0, 4)}, "no empty axis"),
    ({"A": (5, 3)}, r"A must be \(d n\) with d = 4.*\(5, 3\)"),
    ({"delta": (2, 4, 4)}, r"delta must have shape \(2, 5, 4\).*\(2, 4, 4\)"),
    ({"z": (2, 5, 3)}, r"z must have shape \(2, 5, 4\)"),
    ({"D": (3,)}, r"D must have shape \(4,\)"),
    ({"delta_bias": (4, 1)}, r"delta_bias must have shape \(4,\)"),
    ({"h0": (1, 4, 3)}, r"h0 must have shape \(2, 4, 3\)"),
    ({"B": (2, 5, 4)}, r"B must be \(b l n\) = \(2, 5, 3\).*\(2, 5, 4\)"),
    ({"C": (3, 4)}, r"C must be .*\(d n\) = \(4, 3\).*\(3, 4\)"),
    ({"B": (2, 5, 3, 3), "C": (2, 5, 3, 3)}, r"\[3\] groups; d = 4"),
    ({"B": (2, 5, 2, 3), "C": (2, 5, 4, 3)}, r"\[2, 4\] groups"),
    ({"B": (2, 5, 2, 3)}, "both be grouped"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG)
def test_wrong_shapes(shapes, message):
    given_ = arguments(5) | {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        selective_scan(**{name: jnp.asarray(x) for name, x in given_.items()})


def test_unknown_implementation():
    with pytest.raises(ValueError, match=r"'triton'.*reference, sequential, associative"):
        full(**arguments(1), implementation="triton")
