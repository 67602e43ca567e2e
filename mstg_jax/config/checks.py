"""What a user can mend, and the checks that the sections of the settings share."""

from typing import Any


class UserError(ValueError):
    """What a user can mend: commands show the message alone, and no traceback."""


class SettingsError(UserError):
    """Settings that cannot work, alone or together; the message says what would."""


def positive(section: str, settings: Any, *names: str) -> None:
    """Raises SettingsError unless these settings, and each item of those that are tuples, are
    greater than 0; an empty tuple is not."""
    for name in names:
        value = getattr(settings, name)
        least = min(value, default=0) if isinstance(value, tuple) else value
        if not least > 0:
            raise SettingsError(f"{section}.{name} is {value}, but it must be greater than 0")


def share(section: str, settings: Any, *names: str) -> None:
    """Raises SettingsError unless these settings lie in [0, 1)."""
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise SettingsError(f"{section}.{name} is {value}, but it must lie in [0, 1)")
