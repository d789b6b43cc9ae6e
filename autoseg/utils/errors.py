"""Errors that a user can cause: one sentence with the file or option, what is wrong, and how to correct it."""


class AutosegError(Exception):
    """The user's data, plan or run folder is invalid; the command ends with exit code 1."""


class LockedFolder(AutosegError):
    """A folder that the user may not enter, which would be left out without a word."""


class UsageError(AutosegError):
    """The options or arguments are invalid; the command ends with exit code 2."""
