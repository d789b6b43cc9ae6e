"""Folders of training and of validation cases, which are one dataset: ``train/images`` beside ``val/images``."""

import re
from collections.abc import Iterable

_TRAINING = re.compile(r"(?<![A-Za-z])(?i:train(?:ing)?(?:set)?)(?![A-Za-z])|(?<=[a-z])Tr(?![A-Za-z])")
_VALIDATION = re.compile(
    r"(?<![A-Za-z])(?i:(?:val(?:id(?:ation)?)?|dev)(?:set)?)(?![A-Za-z])|(?<=[a-z])(?:Va|Val)(?![A-Za-z])"
)
_EITHER = re.compile(f"{_TRAINING.pattern}|{_VALIDATION.pattern}")


def names_training(folder: str) -> bool:
    """Whether a folder is called after training cases: ``train/images``, ``images_train``, ``imagesTr``."""
    return _TRAINING.search(folder) is not None


def joined(folders: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What folders of training and of validation cases have in common.

    Args:
        folders: their paths below the dataset's, with slashes.

    Returns:
        Folder → a pattern for it and those of the other part (``{train,val}/images``), and its own word (``train``, or
        ``""``). Where there is but one part, the pattern is the folder, and the word ``""``.
    """
    folders = list(folders)
    training, validation = (
        sorted({match[0] for folder in folders for match in words.finditer(folder)})
        for words in (_TRAINING, _VALIDATION)
    )
    if not training or not validation:
        return {folder: (folder, "") for folder in folders}
    either = "{" + ",".join([*training, *validation]) + "}"
    own = {folder: _EITHER.search(folder) for folder in folders}
    return {
        folder: (_EITHER.sub(lambda _: either, folder), "" if word is None else word[0]) for folder, word in own.items()
    }
