"""Tables of files: CSV as programs write it, and as Excel does."""

import csv
import io
from pathlib import Path

from autoseg.utils.errors import AutosegError


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV, separated by commas, semicolons or tabs; columns without a name are left out.

    Raises:
        AutosegError: it can't be read, is no CSV in UTF-8, or has a column twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AutosegError(f"{path} can't be read ({error.strerror}); correct csv in autoseg.toml.") from None
    except UnicodeDecodeError as error:
        raise AutosegError(f"{path} is no CSV in UTF-8 ({error}); save it again as one.") from None
    lines = text.splitlines()
    if lines and lines[0].lower().startswith("sep="):  # Excel's way to name the separator
        text = text.split("\n", 1)[1] if "\n" in text else ""
        lines = lines[1:]
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise AutosegError(f"{path} is no CSV in UTF-8 ({error}); save it again as one.") from None
    columns = [name.strip() for name in rows[0]] if rows else []
    named = [name for name in columns if name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise AutosegError(f"{path} has two columns called {', '.join(twice)}; rename all but one.")
    filled = [[value.strip() for value in row] for row in rows[1:]]
    return named, [
        {name: value for name, value in zip(columns, [*row, *[""] * len(columns)], strict=False) if name}
        for row in filled
        if any(row)
    ]


def file_in(table: Path, value: str) -> Path:
    """The file that a table names, relative to it or absolute; with backslashes where it came from Windows."""
    found = table.parent / value
    return found if found.exists() or "\\" not in value else table.parent / value.replace("\\", "/")
