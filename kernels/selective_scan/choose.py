"""Which implementation runs: by name, or by the platform that the computation is lowered for."""

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from kernels.selective_scan import reference, xla
from kernels.selective_scan.form import Implementation

NAMES = ("reference", "sequential", "associative", "triton")
PREFERRED = {"cpu": "sequential", "cuda": "triton"}
EVERYWHERE = "associative"
ONLY = {"triton": "cuda"}  # the one platform that these run on

log = logging.getLogger("kernels.selective_scan")


def explain(implementation: str | None = None, platform: str | None = None) -> str:
    """What `selective_scan` would run, and why.

    Args:
        implementation: as given to `selective_scan`.
        platform: "cpu", "cuda", "tpu", ...; JAX's default backend if not given.
    """
    platform = platform or jax.default_backend()
    platform = {"gpu": "cuda"}.get(platform, platform)
    if implementation is not None:
        if ONLY.get(implementation, platform) != platform:
            return f"nothing: {implementation} runs on {ONLY[implementation]} only"
        if reason := unavailable(implementation):
            return f"nothing: {implementation} cannot run, because {reason}"
        return f"{implementation}, as named"
    wanted = PREFERRED.get(platform)
    if wanted is None:
        return f"{EVERYWHERE}: there is no kernel for {platform}"
    if reason := unavailable(wanted):
        return f"{EVERYWHERE}: {wanted} cannot run, because {reason}"
    return f"{wanted}, the default on {platform}"


@cache
def unavailable(name: str) -> str | None:
    """Why an implementation cannot be loaded here, and what would help; None if it can.

    Raises ValueError on an unknown name.
    """
    if name not in NAMES:
        raise ValueError(
            f"selective_scan has no implementation {name!r}; "
            f"there are {', '.join(NAMES)}, or None to choose by platform"
        )
    if name != "triton":
        return None
    try:
        module = import_module("kernels.selective_scan.triton_gpu")
    except ImportError as error:
        return f"{error}; install the gpu extra: pip install 'mstg-jax[gpu]'"
    return module.unavailable()


def load(name: str) -> Implementation:
    """Raises NotImplementedError, with the reason and the remedy, if it cannot be loaded here."""
    if reason := unavailable(name):
        raise NotImplementedError(f"selective_scan cannot run {name!r}: {reason}")
    modules: dict[str, Any] = {
        "reference": reference,
        "sequential": xla.sequential,
        "associative": xla.associative,
    }
    return modules[name] if name in modules else import_module(f"{__package__}.triton_gpu")  # pyright: ignore[reportReturnType]


def dispatch(
    name: str | None, run: Callable[[Implementation], Callable[..., Any]], *, double: bool = False
) -> Callable[..., Any]:
    """The function `run(implementation)` of the named implementation, or of each platform's own.

    The platform is the one that the computation is lowered for, which may not be the one here. For
    float64 (`double`), kernels are not chosen, and a named one is refused.
    """
    if name is None:
        _say_what_is_missing()
        usable = {p: i for p, i in PREFERRED.items() if not (double and i in ONLY)}
        own = {p: run(load(i)) for p, i in usable.items() if unavailable(i) is None}
        default = run(load(EVERYWHERE))
        return lambda *args: lax.platform_dependent(*args, **own, default=default)
    function = run(load(name))
    if name not in ONLY:
        return function
    if double:
        raise NotImplementedError(
            f"selective_scan's {name!r} has no float64; use float32, or {EVERYWHERE!r}"
        )
    refusal = _refusal(function, f"selective_scan's {name!r} runs on {ONLY[name]} only")
    own = {ONLY[name]: function}
    return lambda *args: lax.platform_dependent(*args, **own, default=refusal)


@cache
def _say_what_is_missing() -> None:
    """A GPU without its kernel is slow: one line says so."""
    if jax.default_backend() == "gpu" and unavailable(PREFERRED["cuda"]):
        log.warning("selective_scan runs %s", explain())


def _refusal(function: Callable[..., Any], message: str) -> Callable[..., Any]:
    """A function of the same type that cannot be lowered."""

    def refuse(*args: Any) -> Any:
        stop = refused.bind(jnp.zeros(()), message=message)
        outputs = jax.eval_shape(function, *args)
        return jax.tree.map(lambda x: jnp.broadcast_to(stop.astype(x.dtype), x.shape), outputs)

    return refuse


def _refuse_to_lower(_context: Any, *_operands: Any, message: str) -> Any:
    raise NotImplementedError(message)


refused = Primitive("selective_scan_refused")
refused.def_abstract_eval(lambda x, message: x)
mlir.register_lowering(refused, _refuse_to_lower)
