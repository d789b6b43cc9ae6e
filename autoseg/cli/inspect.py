"""``autoseg inspect``."""


def command() -> None:
    """inspect."""
