"""``autoseg evaluate``."""


def command() -> None:
    """evaluate."""
