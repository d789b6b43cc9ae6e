"""What files of weights say beside them, read without torch: metadata, and the stage that they were trained for."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from autoseg.plans.stage import Stage


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata stored with the weights; empty if the file is missing or unreadable."""
    try:
        with safe_open(str(path), framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def is_of(stage: Stage, path: Path) -> bool:
    """Whether weights were trained for this stage; True where the file has no identity."""
    return read_metadata(path).get("identity", stage.identity) == stage.identity
