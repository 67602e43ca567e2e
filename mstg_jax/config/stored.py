"""Settings as the JSON of a run, and in what two runs differ."""

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from mstg_jax.config.settings import Config

BEFORE = {
    "coarse": "motion.channels, the stages of the flows",
    "residual": "motion.synthesis",
    "frame_weight": "1, with motion.blend_weight and others relative to it",
    "between": "always true; method register and voxelmorph need no frames between",
}
"""Settings of method between as it was, and what means the same now."""


def to_json(config: Config) -> dict[str, Any]:
    """Plain values; `from_json` is the inverse."""
    return json.loads(json.dumps(asdict(config)))


def from_json(stored: dict[str, Any]) -> Config:
    """Raises ValueError on a setting that this version does not know, and on a run of `between` as
    it was before it had a pyramid: its weights fit no present network.

    Method `between` was once mstg with `motion.ends` both.
    """

    def build(cls: Any, values: dict[str, Any]) -> Any:
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown settings in the run's config: {', '.join(unknown)}")
        return cls(**{name: convert(value) for name, value in values.items()})

    def convert(value: Any) -> Any:
        return tuple(convert(v) for v in value) if isinstance(value, list) else value

    sections: dict[str, Any] = {
        f.name: f.default_factory for f in fields(Config) if f.default_factory is not MISSING
    }
    motion = dict(stored.get("motion", {}))
    if motion.pop("ends", "ed") == "both" and stored.get("method") == "mstg":
        stored = stored | {"method": "between"}
    if BEFORE.keys() & motion.keys():
        if stored.get("method") == "between":
            now = "; ".join(f"motion.{name} is now {means}" for name, means in BEFORE.items())
            raise ValueError(
                "a run of method between before it found motion from coarse to fine: its weights "
                f"fit no present network. Train preset acdc-between anew ({now})"
            )
        motion = {}
    model = dict(stored.get("model", {}))
    if isinstance(model.get("remat"), bool):
        model["remat"] = "modules" if model["remat"] else "none"
    train = dict(stored.get("train", {}))
    train.pop("distributed", None)  # is said by `cluster` now, and is no matter of the run
    parts = {
        name: build(sections[name], value) if name in sections else value
        for name, value in (stored | {"motion": motion, "model": model, "train": train}).items()
    }
    return build(Config, parts)


def differences(a: Config, b: Config) -> list[str]:
    """The settings in which two runs differ, as `model.gate: True -> False`."""

    def walk(prefix: str, x: Any, y: Any) -> list[str]:
        if is_dataclass(x):
            return [
                d
                for f in fields(x)
                for d in walk(f"{prefix}.{f.name}", getattr(x, f.name), getattr(y, f.name))
            ]
        return [] if x == y else [f"{prefix[1:]}: {x} -> {y}"]

    return walk("", a, b)
