"""Which implementation runs: by name, or by the platform that the computation is lowered for."""

import logging
from functools import cache
from importlib import import_module

import jax

from kernels.selective_scan.form import Implementation
from kernels.selective_scan.xla import chunked

NAMES = ("reference", "sequential", "associative", "triton", "pallas_tpu")
PREFERRED = {"cpu": "sequential", "cuda": "triton", "tpu": "pallas_tpu"}
EVERYWHERE = "associative"
ONLY = {"triton": "cuda", "pallas_tpu": "tpu"}  # the one platform that these run on
MODULES = {"triton": "gpu.launch", "pallas_tpu": "tpu.launch"}  # loaded when they are wanted

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


def unavailable(name: str) -> str | None:
    """Why an implementation cannot be loaded here, and what would help; None if it can.

    Raises ValueError on an unknown name.
    """
    if name not in NAMES:
        raise ValueError(
            f"selective_scan has no implementation {name!r}; "
            f"there are {', '.join(NAMES)}, or None to choose by platform"
        )
    return _unavailable_module(name) if name in MODULES else None


@cache
def _unavailable_module(name: str) -> str | None:
    try:
        module = import_module(f"{__package__}.{MODULES[name]}")
    except ImportError as error:
        extra = {"cuda": "gpu"}.get(ONLY[name], ONLY[name])
        return f"{error}; install the {extra} extra: pip install 'mstg-jax[{extra}]'"
    return module.unavailable()


def load(name: str) -> Implementation:
    """Of all but `reference`, which is no kernel: api.py calls it.

    Raises NotImplementedError, with the reason and the remedy, if it cannot be loaded here.
    """
    _require(name)
    if name in MODULES:
        return import_module(f"{__package__}.{MODULES[name]}")  # pyright: ignore[reportReturnType]
    return {"sequential": chunked.sequential, "associative": chunked.associative}[name]


def _require(name: str) -> None:
    if reason := unavailable(name):
        raise NotImplementedError(f"selective_scan cannot run {name!r}: {reason}")


def check_named(name: str | None, double: bool) -> None:
    """Raises NotImplementedError if a named implementation cannot be loaded, or has no float64."""
    if name is None:
        return
    _require(name)
    if double and name in ONLY:
        raise NotImplementedError(
            f"selective_scan's {name!r} has no float64; use float32, or {EVERYWHERE!r}"
        )


def implementation_for(platform: str, name: str | None, double: bool) -> Implementation:
    """What is lowered for a platform: the named implementation, or the platform's own.

    Raises NotImplementedError if the named one runs elsewhere only.
    """
    if name is not None:
        if ONLY.get(name, platform) != platform:
            raise NotImplementedError(f"selective_scan's {name!r} runs on {ONLY[name]} only")
        return load(name)
    own = PREFERRED.get(platform, EVERYWHERE)
    if double and own in ONLY:
        return load(EVERYWHERE)
    if unavailable(own):
        _say(f"selective_scan on {platform} runs {explain(platform=platform)}")
        return load(EVERYWHERE)
    return load(own)


@cache
def _say(message: str) -> None:
    """Once: a GPU without its kernel is slow."""
    log.warning(message)
