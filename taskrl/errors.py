"""Errors meant for the user: each is one sentence with the value, what was expected and the remedy."""

import difflib
from collections.abc import Iterable


class TaskrlError(Exception):
    """A mistake that the user can mend; the command line prints it and exits with code 2."""


class ConfigError(TaskrlError):
    """A configuration key or value that does not exist or does not fit."""


class DataError(TaskrlError):
    """Data that is missing, unreadable or too small for what was asked."""


class RunFolderError(TaskrlError):
    """A run folder that exists already, is incomplete or is damaged."""


class WorkerError(TaskrlError):
    """A worker process that raised, died or ran past its deadline."""


def in_short(error: Exception) -> str:
    """What an exception of a library says, on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


def unknown_name(what: str, given: str, known: Iterable[str]) -> str:
    """Sentence for an unknown name: names the known ones and the nearest of them."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {given!r}; known: {', '.join(names)}.{hint}"
