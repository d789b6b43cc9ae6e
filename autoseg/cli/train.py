"""``autoseg train``."""


def command() -> None:
    """train."""
