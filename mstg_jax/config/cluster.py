"""How the processes of a run find one another."""

from dataclasses import dataclass

from mstg_jax.config.checks import SettingsError, positive


@dataclass(frozen=True)
class ClusterConfig:
    """Without any of these a process trains alone."""

    auto: bool = False
    """Join the processes that SLURM, Open MPI, Kubernetes or a Cloud TPU has started."""
    coordinator: str | None = None
    """HOST:PORT of the first process, where nothing else names the processes."""
    processes: int | None = None
    """How many there are; with the coordinator."""
    process_id: int | None = None
    """Which of them this is, 0 to processes - 1; with the coordinator."""
    timeout: int = 120
    """Seconds to wait for the others: until they have come, and later for a sign of life."""

    @property
    def joins(self) -> bool:
        return self.auto or self.coordinator is not None

    def check(self) -> None:
        positive("cluster", self, "timeout")
        names = ("coordinator", "processes", "process_id")
        given = [name for name in names if getattr(self, name) is not None]
        if self.auto and given:
            raise SettingsError(
                f"cluster.auto finds the others by itself: leave cluster.{given[0]} out"
            )
        if given and len(given) < len(names):
            missing = ", ".join(f"cluster.{name}" for name in names if name not in given)
            raise SettingsError(f"cluster.{given[0]} needs {missing} beside it")
        if self.coordinator is None or self.processes is None or self.process_id is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise SettingsError(
                f"cluster.coordinator is {self.coordinator}, but it must be HOST:PORT of the first "
                "process, as host0:1234"
            )
        if not 0 <= self.process_id < self.processes:
            raise SettingsError(
                f"cluster.process_id is {self.process_id}, but of {self.processes} processes it is "
                f"one of 0 to {self.processes - 1}"
            )
