"""Words of messages."""

from collections.abc import Iterable


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names separated by commas; of many, the first ones and the number of the rest.

    Args:
        names: in order; none give an empty text.
        most: names that are written out.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    words = [str(name) for name in names]
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def capital(text: str) -> str:
    """A text as it begins a sentence; the other letters stay.

    Example:
        >>> capital("half 1 of fold 0 of ResEnc")
        'Half 1 of fold 0 of ResEnc'
    """
    return text[:1].upper() + text[1:]
