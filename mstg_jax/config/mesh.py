"""How devices share the work of a training step."""

from dataclasses import dataclass

from mstg_jax.config.checks import SettingsError, positive


@dataclass(frozen=True)
class MeshConfig:
    """The number of devices is data times space."""

    data: int = -1
    """Devices that share the examples of a batch out; with -1 all of them, each space together."""
    space: int = 1
    """Devices that share the slices of each volume: one that is too large for a single device."""

    def check(self) -> None:
        positive("mesh", self, "space")
        if self.data != -1 and self.data < 1:
            raise SettingsError(f"mesh.data is {self.data}, but it must be 1 or more, or -1")
