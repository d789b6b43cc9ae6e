"""``autoseg report``."""


def command() -> None:
    """report."""
