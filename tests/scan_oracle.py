"""selective_scan_ref of mamba and its gradients as loops in float64, with arguments to try."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from beartype import beartype
from hypothesis import assume
from hypothesis import strategies as st
from jax import numpy as jnp
from jaxtyping import jaxtyped

from kernels.selective_scan.form import Arguments

Arrays = dict[str, np.ndarray]
ORDER = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "h0")
FORMS = ("varying", "grouped", "constant")
OPTIONAL = ("D", "z", "delta_bias", "h0")
# At l = d = 1 a sum over 17 states was 937 times smaller than its terms: rounding each of them once
# (6e-8) is 6e-5 of it. From 150 on that is near the tolerance of 1e-5.
CANCELLED = 150


def arguments(
    length: int, B="varying", C="varying", *, batch=2, d=4, n=3, groups=2, seed=0
) -> Arrays:
    rng = np.random.default_rng([length, seed])
    shapes = {
        "varying": (batch, length, n),
        "grouped": (batch, length, groups, n),
        "constant": (d, n),
    }

    def draw(*shape: int) -> np.ndarray:
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


@st.composite
def draws(
    draw: st.DrawFn,
    lengths: Sequence[int],
    per_group: Sequence[int] = (1, 2, 5),
    n: Sequence[int] = (1, 2, 16, 17),
) -> tuple[Arrays, dict[str, bool]]:
    """Arguments of every form, each optional one given or not, and softplus and reverse.

    Without those that float32 cannot get right (CANCELLED).
    """
    groups = draw(st.sampled_from([1, 2, 3]))
    varying = draw(st.sampled_from(["varying", "grouped"])) if groups == 1 else "grouped"
    given = arguments(
        draw(st.sampled_from(lengths)),
        *(draw(st.sampled_from([varying, "constant"])) for _ in range(2)),
        batch=draw(st.sampled_from([1, 3])),
        d=groups * draw(st.sampled_from(per_group)),
        groups=groups,
        n=draw(st.sampled_from(n)),
        seed=draw(st.integers(0, 99)),
    )
    softplus = draw(st.booleans())
    if not softplus:
        given["delta"] = np.abs(given["delta"])
        given["delta_bias"] = np.abs(given["delta_bias"])
    for name in OPTIONAL:
        if draw(st.booleans()):
            del given[name]
    options = {"softplus": softplus, "reverse": draw(st.booleans())}
    assume(cancellation(given, *cotangents(given), **options) < CANCELLED)
    return given, options


def formed(given: Arrays, dtype: Any = jnp.float32) -> Arguments:
    """As an implementation takes them: B and C in groups, h0 always; tokens of type `dtype`."""
    tokens = {"u", "delta", "z"} | {name for name in ("B", "C") if given[name].ndim > 2}
    arrays: dict[str, Any] = dict.fromkeys(OPTIONAL)
    arrays["h0"] = jnp.zeros((given["u"].shape[0], *given["A"].shape))
    arrays |= {k: jnp.asarray(x, dtype if k in tokens else None) for k, x in given.items()}
    forms = {k: x[:, :, None] if x.ndim == 3 else x for k, x in arrays.items() if k in ("B", "C")}
    return Arguments(**arrays | forms)


def _fields(u, delta, A, B, C, D, z, delta_bias, h0):
    """Of the shapes that `Arguments` says."""


_fields.__annotations__ = Arguments.__annotations__
_checked = jaxtyped(_fields, typechecker=beartype)


def results(given: Arrays, args: Arguments, y: Any, last: Any, slopes: Arguments) -> Arrays:
    """Both outputs and every gradient, by names; of the types and shapes that they must have."""
    _checked(*args)
    _checked(*slopes)
    assert (y.dtype, last.dtype) == (args.u.dtype, args.h0.dtype)
    like = jax.tree.map(lambda x: (x.shape, x.dtype), args)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), slopes) == like
    found = {f"d{k}": x.reshape(given[k].shape) for k, x in slopes._asdict().items() if k in given}
    return {"y": y, "last": last} | found


def wanted_of(given: Arrays, dy: Any, dlast: Any, **options: bool) -> Arrays:
    """What `results` should be."""
    wanted = dict(zip(("y", "last"), definition(given, **options), strict=True))
    return wanted | {f"d{k}": x for k, x in gradients(given, dy, dlast, **options).items()}


def far_from_definition(got: dict[str, Any], given: Arrays, dy: Any, dlast: Any, **options: bool):
    """The errors of `results`, each as a share of the largest value or of `least_sizes`."""
    sizes = least_sizes(given, dy, dlast, **options)
    wanted = wanted_of(given, dy, dlast, **options)
    return errors(got, wanted, {f"d{name}": size for name, size in sizes.items()})


def cotangents(given: Arrays, seed=1) -> tuple[np.ndarray, np.ndarray]:
    """For y and the last state."""
    rng = np.random.default_rng(seed)
    batch, _, d = given["u"].shape
    shapes = given["u"].shape, (batch, d, given["A"].shape[1])
    dy, dlast = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return dy, dlast


def growing(length: int, reverse=False) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Arguments, without softplus, and cotangents of states that grow and stay within float32.

    What does not is exp(delta A) over many tokens. In the first example states of 1e-30 grow by
    exp(96) from token 64 to 128, and so do the gradients the other way; in the second all states
    are 0, and grow at each token by exp(1.5).
    """
    given = arguments(length, batch=2)
    dy, dlast = cotangents(given)
    given["A"] = np.tile(np.float32([1, -1, 0.5]), (len(given["A"]), 1))
    given["delta_bias"] = np.zeros_like(given["delta_bias"])
    given["delta"] = np.full_like(given["delta"], 1.5)
    given["delta"][0] = 0.01
    given["delta"][0, 64:128] = 1.5
    for x, size in ((given["u"], 0), (given["h0"], 0), (dy[:, 1:], 0), (dlast, 0), (dy[:, :1], 1)):
        x *= np.float32([1e-30, size])[:, None, None]
    if reverse:
        tokens = ("u", "delta", "z", "B", "C")
        given |= {name: given[name][:, ::-1].copy() for name in tokens}
        dy = dy[:, ::-1].copy()
    return given, dy, dlast


def definition(given: Arrays, *, softplus=True, reverse=False) -> tuple[np.ndarray, np.ndarray]:
    """y (b l d) and the last state (b d n)."""
    run = _run(given, softplus, reverse)
    return run["y"], run["states"][-1]


def gradients(
    given: Arrays, dy: np.ndarray, dlast: np.ndarray, *, softplus=True, reverse=False
) -> Arrays:
    """Of sum(y dy) + sum(last dlast), for every argument that is given."""
    terms = _terms(given, dy, dlast, softplus, reverse)
    return {name: _add_up(given[name], terms[name]) for name in given}


def least_sizes(
    given: Arrays, dy: np.ndarray, dlast: np.ndarray, *, softplus=True, reverse=False
) -> dict[str, float]:
    """A tenth of what the sizes of a gradient's terms add up to, for every argument.

    A sum over all tokens may be a hundred times smaller than its terms (345 times was seen, at
    d = 1); float32 cannot give that to 1e-5 of itself, whatever the algorithm.
    """
    terms = _terms(given, dy, dlast, softplus, reverse)
    return {k: 0.1 * float(np.max(_add_up(given[k], np.abs(terms[k])))) for k in given}


def cancellation(
    given: Arrays, dy: np.ndarray, dlast: np.ndarray, *, softplus=True, reverse=False
) -> float:
    """How many times smaller a gradient may be than its terms of all states; of u's and delta's."""
    values = gradients(given, dy, dlast, softplus=softplus, reverse=reverse)
    least = least_sizes(given, dy, dlast, softplus=softplus, reverse=reverse)
    sizes = _terms(given, dy, dlast, softplus, reverse, sizes=True)
    names = {"u", "delta", "delta_bias"} & given.keys()
    return max(
        float(np.max(_add_up(given[k], sizes[k])))
        / max(float(np.max(np.abs(values[k]))), least[k], 1e-30)
        for k in names
    )


def _terms(
    given: Arrays,
    dy: np.ndarray,
    dlast: np.ndarray,
    softplus: bool,
    reverse: bool,
    sizes: bool = False,
) -> Arrays:
    """What each gradient adds up: (b l d) or (b l d n); that of h0 is (b d n).

    sizes: in those of u and delta, every state's share without its sign.
    """
    size = np.abs if sizes else np.asarray
    run = _run(given, softplus, reverse)
    u, delta, A, B, C, order = (run[k] for k in ("u", "delta", "A", "B", "C", "order"))
    out = {"u": np.zeros(u.shape), "delta": np.zeros(u.shape)}
    out |= {name: np.zeros(B.shape) for name in ("A", "B", "C")}
    dy = np.float64(dy)
    if "z" in given:
        z = np.float64(given["z"])
        sigma = 1 / (1 + np.exp(-z))
        out["z"] = dy * run["ungated"] * sigma * (1 + z * (1 - sigma))
        dy = dy * z * sigma
    out["D"] = dy * u
    out["u"] += size(dy * given.get("D", 0.0))
    r = np.float64(dlast)
    for step, i in reversed(list(enumerate(order))):
        adjoint = r + dy[:, i, :, None] * C[:, i]
        before, after = run["states"][step], run["states"][step + 1]
        decay = np.exp(delta[:, i, :, None] * A)
        out["C"][:, i] = dy[:, i, :, None] * after
        out["B"][:, i] = adjoint * (delta * u)[:, i, :, None]
        along = np.sum(size(adjoint * B[:, i]), axis=-1)
        decayed = adjoint * decay * before
        out["u"][:, i] += size(delta[:, i]) * along
        out["delta"][:, i] = size(u[:, i]) * along + np.sum(size(decayed * A), axis=-1)
        out["A"][:, i] = decayed * delta[:, i, :, None]
        r = decay * adjoint
    out["h0"] = r
    if softplus:
        out["delta"] = out["delta"] * (1 - np.exp(-delta))  # the sigmoid of what softplus took
    out["delta_bias"] = out["delta"]
    return out


def errors(got: dict[str, Any], wanted: Arrays, least: dict[str, float] | None = None) -> dict:
    """The largest difference of each array, as a share of its largest value, or of `least`."""
    least = least or {}

    def size(name: str) -> float:
        return max(np.max(np.abs(wanted[name])), least.get(name, 0.0), 1e-30)

    return {
        name: float(np.max(np.abs(np.float64(got[name]) - x)) / size(name))
        for name, x in wanted.items()
    }


def _run(given: Arrays, softplus: bool, reverse: bool) -> dict[str, Any]:
    u, delta, A = (np.float64(given[k]) for k in ("u", "delta", "A"))
    (batch, length, d), n = u.shape, A.shape[1]

    def per_channel(M: np.ndarray) -> np.ndarray:
        M = np.float64(M)
        M = M[:, :, None] if M.ndim == 3 else M
        M = np.repeat(M, d // M.shape[2], axis=2) if M.ndim == 4 else M[None, None]
        return np.broadcast_to(M, (batch, length, d, n))

    B, C = per_channel(given["B"]), per_channel(given["C"])
    delta = delta + given.get("delta_bias", 0.0)
    delta = np.logaddexp(0, delta) if softplus else delta
    order = range(length)[:: -1 if reverse else 1]
    states, y = [np.zeros((batch, d, n)) + given.get("h0", 0.0)], np.zeros((batch, length, d))
    for i in order:
        step = delta[:, i, :, None]
        states.append(np.exp(step * A) * states[-1] + step * B[:, i] * u[:, i, :, None])
        y[:, i] = np.sum(states[-1] * C[:, i], axis=-1)
    ungated = y + given.get("D", 0.0) * u
    y = ungated
    if "z" in given:
        y = ungated * given["z"] / (1 + np.exp(-np.float64(given["z"])))
    parts = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "order": order}
    return parts | {"states": states, "ungated": ungated, "y": y}


def _add_up(argument: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Terms summed to the shape of their argument: over all tokens, over a group, or not at all."""
    if argument.shape == terms.shape:
        return terms
    if argument.ndim < 3:
        return np.sum(terms, axis=(0, 1))
    batch, length, d, n = terms.shape
    groups = argument.shape[2] if argument.ndim == 4 else 1
    summed = np.sum(terms.reshape(batch, length, groups, d // groups, n), axis=3)
    return summed.reshape(argument.shape)
