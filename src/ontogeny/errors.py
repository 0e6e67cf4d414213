"""Errors a person can act on: each says what was expected, what was found and where, and what to do."""

import importlib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """A mistake in what was given. The command line prints it as one line and exits with status 2."""


class CheckpointError(InputError):
    """A checkpoint that can't be read as one; names the file or tensor."""


class GenomeError(InputError):
    """A genome, or a genome file, that is not what it says; names the file and the tensor."""


class SchemaError(InputError):
    """A declaration or result that a newer version wrote."""


class StorageError(InputError):
    """A file that can't be written, as on a full disk; one that was there before is as it was."""


class Interrupted(Exception):  # noqa: N818  (not an error: the work is saved and a rerun goes on)
    """SIGINT or SIGTERM arrived; the current step was finished and saved."""


class Claimed(Exception):  # noqa: N818  (not an error: it is being done)
    """Another process works on this run just now."""


def choose(given: str, known: Iterable[str], option: str) -> str:
    """``given`` if it is one of ``known``; InputError otherwise."""
    if given not in known:
        raise InputError(f"{option} {given!r}: expected {', '.join(known)}")
    return given


def optional(module: str, where: str) -> Any:
    """A module of the extra ``data``; InputError, which names the extra, where it isn't installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{where}: needs {module.partition('.')[0]}; pip install 'ontogeny[data]'") from error
