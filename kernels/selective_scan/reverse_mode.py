"""Forward mode is refused with its remedy, which JAX's own words for a custom_vjp do not name."""

from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from kernels.selective_scan.form import Arguments
from kernels.selective_scan.lowering import lower_never


def refuse(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "selective_scan has gradients (jax.grad, jax.vjp), but these have none, and no forward "
        "mode (jax.jvp, jax.hessian); implementation='reference' has all derivatives, with the "
        "state of every token in memory"
    )


@jax.custom_jvp
def reverse_only(args: Arguments) -> Arguments:
    """The same, with tangents that can be transposed, for gradients, but not computed."""
    return args


def _jvp(primals: tuple[Arguments], tangents: tuple[Any]) -> tuple[Arguments, Any]:
    """Tangents are a tree like Arguments; some of them are SymbolicZeros."""
    leaves, tree = jax.tree.flatten(tangents[0])
    some = iter(tangent.bind(*(x for x in leaves if not isinstance(x, SymbolicZero))))
    passed = [x if isinstance(x, SymbolicZero) else next(some) for x in leaves]
    return primals[0], jax.tree.unflatten(tree, passed)


reverse_only.defjvp(_jvp, symbolic_zeros=True)

tangent = Primitive("selective_scan_tangent")
tangent.multiple_results = True
tangent.def_abstract_eval(lambda *types: list(types))
tangent.def_impl(refuse)
lower_never(tangent, refuse)
batching.primitive_batchers[tangent] = lambda xs, axes: (tangent.bind(*xs), axes)
ad.primitive_jvps[tangent] = refuse
ad.primitive_transposes[tangent] = lambda cotangents, *_: cotangents
