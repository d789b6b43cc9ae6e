"""``autoseg demo``."""


def command() -> None:
    """demo."""
