"""Extras: libraries that only some work needs."""


def how_to_install(extra: str) -> str:
    """What to type for an extra of this project, for messages. A package ``autoseg`` of the index is another project.

    Args:
        extra: its name in ``pyproject.toml``.
    """
    return f"pip install '.[{extra}]' in the clone of autoseg's repository"
