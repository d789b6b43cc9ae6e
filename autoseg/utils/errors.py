"""Errors that a user can cause: one sentence that names the file or option, what is wrong, and the way out."""


class AutosegError(Exception):
    """Something about the user's data, plan or run folder is wrong; the command ends with exit code 1."""


class UsageError(AutosegError):
    """The command was asked for something that can't be meant; the command ends with exit code 2."""
