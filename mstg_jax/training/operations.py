"""How many operations the products of a traced program take, on whatever it will run."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def operations(jaxpr: Jaxpr, platform: str) -> float:
    """Multiplications and additions of convolutions and matrix products, over all devices.

    platform: cpu, cuda or tpu, where the program has a form for each. Loops count all their turns
    but for `while`, whose turns nobody knows, with one. What is computed per element, scans among
    it, does not count.
    """
    return sum((_of(eqn, platform) for eqn in _needed(jaxpr)), 0.0)


def _needed(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Without what no result depends on, as compilers leave it out: gradients are traced with the
    values beside them."""
    live = set(map(id, jaxpr.outvars))
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(x) in live for x in eqn.outvars):
            live.update(map(id, eqn.invars))
            yield eqn


def _of(eqn: JaxprEqn, platform: str) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        taps = math.prod(_shape(eqn.invars[0])[i] for i in contracted)
        return 2.0 * math.prod(_shape(eqn.outvars[0])) * taps
    if name == "cond":
        return _branch(params, platform)
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "shard_map":  # its program is that of one device
        times = params["mesh"].size
    return times * sum((operations(x, platform) for x in _inside(params)), 0.0)


def _convolution(eqn: JaxprEqn) -> float:
    """Zeros that spread the input out are no work."""
    kernel, filters = _shape(eqn.invars[1]), eqn.params["dimension_numbers"].rhs_spec[0]
    taps = math.prod(kernel) / kernel[filters]
    zeros = math.prod(eqn.params["lhs_dilation"])
    return 2 * math.prod(_shape(eqn.outvars[0])) * taps / zeros


def _shape(x: Any) -> tuple[int, ...]:
    return x.aval.shape


def _branch(params: dict[str, Any], platform: str) -> float:
    """The platform's, or the longest where data decide."""
    counts = [operations(x.jaxpr, platform) for x in params["branches"]]
    for names, count in zip(params.get("branches_platforms") or (), counts, strict=False):
        if names is None or platform in names:
            return count
    return max(counts)


def _inside(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, Jaxpr):
                yield x
