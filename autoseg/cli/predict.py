"""``autoseg predict``."""


def command() -> None:
    """predict."""
