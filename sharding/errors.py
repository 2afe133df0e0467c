"""The errors a user can act on. Each is one sentence that names the file, the reason and the fix."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HyperVisionError(Exception):
    """Base of all errors that the command line prints as one sentence, without a traceback."""

    exit_code = 2


class ConfigError(HyperVisionError):
    """A recipe, an override or a catalog row is wrong."""


class InputError(HyperVisionError):
    """An input file is missing, cut short, or not what its row says."""


class OutputError(HyperVisionError):
    """The work folder cannot be written: disk full, no permission, read-only."""


class ChangedError(HyperVisionError):
    """Done work was made from another configuration or input than the one now given."""


class StageFailed(HyperVisionError):
    """Too many units of a stage failed; the rest is finished."""

    exit_code = 1


class Stopped(HyperVisionError):
    """Work was asked to stop and did, with nothing lost; the same command goes on. 75 is "try again" (sysexits.h)."""

    exit_code = 75


class Killed(HyperVisionError):
    """A process was ended from outside, or lost another one; trying again may help. 71 is "system error"."""

    exit_code = 71


_REASONS = {
    errno.ENOSPC: "the disk is full; free some space, or set workdir= to a larger disk, and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space, or set workdir= elsewhere, and run again",
    errno.EACCES: "no permission to write there; change its owner or mode, or set workdir= to a folder of yours",
    errno.EPERM: "no permission to write there; change its owner or mode, or set workdir= to a folder of yours",
    errno.EROFS: "the file system is read-only; set workdir= to a writable one",
    errno.ENOTDIR: "a part of that path is a file and not a folder; set workdir= to another path",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """The sentence for an operating-system error met while writing `path`."""
    reason = _REASONS.get(
        error.errno or 0, f"{error.strerror or error}; check the disk, then run the same command again"
    )
    return OutputError(f"cannot write {path}: {reason}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn operating-system errors inside the block into an `OutputError` about `path`."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
