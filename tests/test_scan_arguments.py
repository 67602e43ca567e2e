"""What the scan takes, and what it says of what it does not."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scan_oracle import ORDER, arguments, definition

from kernels.selective_scan import selective_scan
from kernels.selective_scan.check import check_flags

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
    with pytest.raises(ValueError, match=r"'cuda'.*reference, sequential, associative"):
        selective_scan(**arguments(1), implementation="cuda")


@pytest.mark.parametrize("dtype", ["int32", "bool", "float8_e4m3fn", "complex64"])
@pytest.mark.parametrize("name", ORDER)
def test_other_types_than_floats_are_refused(name, dtype):
    """y would be cut to whole numbers, or an imaginary part left out."""
    given_ = jax.tree.map(jnp.asarray, arguments(5))
    message = f"^{name} must be float16, bfloat16, float32 or float64, but it is {dtype}$"
    with pytest.raises(TypeError, match=message):
        selective_scan(**given_ | {name: given_[name].astype(dtype)})
    with pytest.raises(TypeError, match=message):
        selective_scan(**given_ | {name: np.asarray(given_[name].astype(dtype))})


@pytest.mark.parametrize("name", ORDER[1:])
def test_float64_is_not_rounded_to_float32(name):
    with jax.enable_x64(True):
        given_ = arguments(5)
        given_ |= {name: np.float64(given_[name])}
        with pytest.raises(TypeError, match=f"^{name} is float64, but u is float32"):
            selective_scan(**given_)


class Tensor:
    """Of another library."""

    shape = (2, 5, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[[1.0]]], "a list"),
        (0.1, "0.1"),
        (1, "1"),
        (np.float32(1), "a numpy.float32"),
        (Tensor(), "a test_scan_arguments.Tensor"),
        (jax.ShapeDtypeStruct((2, 5, 4), "float32"), "a jax.ShapeDtypeStruct"),
    ],
)
@pytest.mark.parametrize(
    ("name", "form"), [("u", r"\(b l d\)"), ("A", r"\(d n\)"), ("B", ".*"), ("h0", r"\(b d n\)")]
)
def test_what_is_no_array_is_refused(name, form, x, message):
    with pytest.raises(TypeError, match=f"^{name} must be a JAX or NumPy array {form}.*{message}$"):
        selective_scan(**arguments(5) | {name: x})


@pytest.mark.parametrize("name", ORDER[:5])
def test_what_must_be_given(name):
    with pytest.raises(TypeError, match=f"^{name} must be .*but it is None$"):
        selective_scan(**arguments(5) | {name: None})


@pytest.mark.parametrize("flag", ["no", None, np.ones(2), 1])
def test_flags_are_true_or_false(flag):
    with pytest.raises(TypeError, match=r"^reverse must be True or False, but it is"):
        check_flags(delta_softplus=np.True_, reverse=flag)


def test_numpy_arrays_and_gradients_by_them():
    """Each of its own type of float; of float64, which JAX has only if asked for, float32."""
    given_ = arguments(5)
    exact = {name: np.asarray(jnp.asarray(x, "bfloat16"), np.float64) for name, x in given_.items()}
    mixed = exact | {
        name: np.asarray(jnp.asarray(given_[name], "bfloat16")) for name in ORDER[1::2]
    }

    def loss(given_):
        y = selective_scan(**given_, delta_softplus=True)
        return jnp.sum(y), y

    (_, y), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(mixed)
    np.testing.assert_allclose(y, definition(exact)[0], rtol=1e-4, atol=1e-5)
    for name, x in slopes.items():
        assert x.dtype == ("bfloat16" if name in ORDER[1::2] else "float32")
        assert x.shape == given_[name].shape
