"""Memory of the host: what is left for this process, as the system and a container's limit say it."""

from pathlib import Path

#: Where Linux says what is available, and where a container's limits are (cgroups, version 2).
_SYSTEM, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not say. Swap does not count."""
    known = [found for found in (_available(), _left_in_group()) if found is not None]
    return min(known) if known else None


def free_swap() -> int:
    """Bytes of swap that this process can still take; 0 where the system, or a container, has none or says nothing."""
    try:
        free = 1024 * _number(_SYSTEM, "SwapFree:")
    except (OSError, ValueError):
        return 0
    try:
        limit = (_GROUP / "memory.swap.max").read_text(encoding="ascii").strip()
        used = int((_GROUP / "memory.swap.current").read_text(encoding="ascii"))
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def _available() -> int | None:
    """Bytes that the system can give to programs."""
    try:
        return 1024 * _number(_SYSTEM, "MemAvailable:")
    except (OSError, ValueError):
        return None


def _left_in_group() -> int | None:
    """Bytes that are left of a container's limit; None without one.

    Its count has the files that were read, too, which give way.
    """
    try:
        limit = (_GROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        files = sum(_number(_GROUP / "memory.stat", f"{kind}_file") for kind in ("active", "inactive"))
        used = int((_GROUP / "memory.current").read_text(encoding="ascii"))
        return max(0, int(limit) - used + files)
    except (OSError, ValueError):
        return None


def _number(path: Path, name: str) -> int:
    """The number after a name, in a file with one on each line.

    Raises:
        OSError: there is no such file.
        ValueError: it has no such number.
    """
    for line in path.read_text(encoding="ascii").splitlines():
        found, *values = line.split() or [""]
        if found == name and values:
            return int(values[0])
    raise ValueError(name)
