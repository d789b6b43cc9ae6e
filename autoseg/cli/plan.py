"""``autoseg plan``."""


def command() -> None:
    """plan."""
