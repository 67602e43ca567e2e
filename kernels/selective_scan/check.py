"""The arguments of `selective_scan` as JAX's arrays, or an error that names the one at fault."""

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from kernels.selective_scan.form import PerChannel, Projection, Rates, State, Tokens

if TYPE_CHECKING:
    ArrayLike: TypeAlias = Array | np.ndarray
else:  # so that anything else gets the op's own error, and not that of a library of types
    ArrayLike: TypeAlias = Any

FORMS = {
    "u": "(b l d)",
    "delta": "(b l d)",
    "A": "(d n)",
    "B": "(b l n), (b l g n) or (d n)",
    "C": "(b l n), (b l g n) or (d n)",
    "D": "(d,)",
    "z": "(b l d)",
    "delta_bias": "(d,)",
    "h0": "(b d n)",
}
OPTIONAL = ("D", "z", "delta_bias", "h0")
FLOATS = ("float16", "bfloat16", "float32", "float64")


class Given(NamedTuple):
    """The arguments as they are given, each of its own type of float: not yet in the one form."""

    u: Tokens
    delta: Tokens
    A: Rates
    B: Float[Array, "b l n"] | Projection
    C: Float[Array, "b l n"] | Projection
    D: PerChannel | None
    z: Tokens | None
    delta_bias: PerChannel | None
    h0: State | None


def checked(**given: Any) -> Given:
    """Raises TypeError on what is no array of floats, ValueError on shapes that do not fit."""
    args = Given(**{name: _array(name, x) for name, x in given.items()})
    _check_double(args)
    _check_shapes(args)
    return args


def check_flags(**flags: Any) -> None:
    """Raises TypeError: a string would count as True, an array is unknown when this is traced."""
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, but it is {_described(flag)}")


def _array(name: str, x: Any) -> Any:
    """An array, or None where that may be."""
    if x is None and name in OPTIONAL:
        return None
    if not isinstance(x, Array):
        x = getattr(x, "__jax_array__", lambda: x)()  # flax's nnx.Param has it
    if not isinstance(x, Array | np.ndarray):
        raise TypeError(
            f"{name} must be a JAX or NumPy array {FORMS[name]}, but it is {_described(x)}"
        )
    if str(x.dtype) not in FLOATS:
        raise TypeError(
            f"{name} must be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, but it is {x.dtype}"
        )
    return jnp.asarray(x)


def _described(x: Any) -> str:
    if x is None or isinstance(x, bool | int | float | complex | str):
        return repr(x)
    kind = type(x)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a {module}{kind.__qualname__}"


def _check_double(args: Given) -> None:
    """u says in which type everything is computed: no other argument may have more digits."""
    if args.u.dtype == jnp.float64:
        return
    for name, x in args._asdict().items():
        if x is not None and x.dtype == jnp.float64:
            raise TypeError(
                f"{name} is float64, but u is {args.u.dtype}, which makes the scan one in float32: "
                "cast either of them"
            )


def _check_shapes(args: Given) -> None:
    u, delta, A, B, C, D, z, delta_bias, h0 = args
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"u must be (b l d) with no empty axis, but its shape is {u.shape}")
    batch, length, d = u.shape
    if A.ndim != 2 or A.shape[0] != d or A.shape[1] == 0:
        raise ValueError(f"A must be (d n) with d = {d} as in u, but its shape is {A.shape}")
    n = A.shape[1]
    fixed = {"delta": (delta, u.shape), "D": (D, (d,)), "z": (z, u.shape)}
    fixed |= {"delta_bias": (delta_bias, (d,)), "h0": (h0, (batch, d, n))}
    for name, (value, shape) in fixed.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, but its shape is {value.shape}")
    groups = {M.shape[2] for M in (B, C) if M.ndim == 4}
    for name, M in (("B", B), ("C", C)):
        group = M.shape[2:3] if M.ndim == 4 else ()
        if M.shape not in ((batch, length, *group, n), (d, n)):
            raise ValueError(
                f"{name} must be (b l n) = {(batch, length, n)}, (b l g n) or (d n) = {(d, n)}, "
                f"but its shape is {M.shape}"
            )
    if len(groups) > 1 or any(g < 1 or d % g for g in groups):
        raise ValueError(f"B and C have {sorted(groups)} groups; d = {d} channels need one divisor")
    if len(groups) == 1 and {M.ndim for M in (B, C)} == {3, 4}:
        raise ValueError("B and C must both be grouped, or neither, but one is (b l n)")
