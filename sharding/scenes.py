"""Which files are scenes, and the id of each: one id to a file, one file to an id, and none changes later.

    plot_1.npy             -> plot_1
    2021/05/plot 1.npy     -> 2021-05-plot_1
    plot 1.npy beside it   -> plot_1-3f0c9a1b      (the end is a hash of its path)

The id is the path below the root without its ending, `/` as `-`, every other sign that is no letter or digit as `_`.
Only where two files would have the same id, or one is too long for a file name, a hash of the path is put behind it.
A file that has a record keeps the id of it, so that a file that comes later changes nothing that is done.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from sharding.catalog import Row, keys, load_row
from sharding.errors import InputError
from sharding.folders import find_files

MOST_BYTES = 96  # of 255: a sample's temporary file also bears dataset, place, host and process
HASH_SIGNS = 8


def path_text(relative: PurePath) -> str:
    """A path below the root as text that JSON can hold, names that are no UTF-8 included."""
    return relative.as_posix()


def plain_id(relative: PurePath) -> str:
    """The id that a path gives by itself."""
    stem = "-".join(relative.with_suffix("").parts)
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in stem)


def hashed_id(relative: PurePath) -> str:
    """The same, cut short where it is long, with a hash of the path behind it."""
    digest = hashlib.sha256(os.fsencode(path_text(relative))).hexdigest()[:HASH_SIGNS]
    room = MOST_BYTES - HASH_SIGNS - 1
    return f"{plain_id(relative).encode()[:room].decode(errors='ignore')}-{digest}"


def _too_long(name: str) -> bool:
    return len(name.encode()) > MOST_BYTES


def give_ids(paths: Sequence[PurePath], known: Mapping[str, str] | None = None) -> list[str]:
    """The id of each path below the root; `known` are those of paths that have a record.

    Raises:
        InputError: two paths have the same id all the same.
    """
    kept = {path_text(path): known[path_text(path)] for path in paths if known and path_text(path) in known}
    taken = set(kept.values())
    alike: dict[str, list[PurePath]] = {}
    for path in paths:
        alike.setdefault(plain_id(path), []).append(path)
    ids = []
    for path in paths:
        name = plain_id(path)
        # Of several, the one whose name is the id already has it.
        named = [other for other in alike[name] if path_text(other.with_suffix("")) == name]
        first = len(alike[name]) == 1 or named == [path]
        fresh = name if first and name not in taken and not _too_long(name) else hashed_id(path)
        ids.append(kept.get(path_text(path), fresh))
    _refuse_twins(paths, ids)
    return ids


def _refuse_twins(paths: Sequence[PurePath], ids: Sequence[str]) -> None:
    owner: dict[str, PurePath] = {}
    for path, name in zip(paths, ids, strict=True):
        if name in owner:
            raise InputError(f"{owner[name]} and {path} have the same id {name}; rename one of them")
        owner[name] = path


def find_scenes(
    row: Row, root: Path, limit: int | None = None, known: Mapping[str, str] | None = None
) -> list[tuple[str, Path]]:
    """(scene id, file) of every scene below `root`, or the first ones, sorted by path.

    `known` are the ids of files that have a record, by their path below the root.

    Raises:
        InputError: the folder is missing, or no file in it matches.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; set the root of dataset {row.key} to where its files are")
    paths = find_files(root, row.files)
    if not paths:
        other = _fitting_row(row, root)
        hint = f"; its files are those of row {other}: use {other}" if other else "; check root= and files:"
        raise InputError(f"no file below {root} matches {row.files!r} (dataset {row.key}){hint}")
    ids = give_ids([path.relative_to(root) for path in paths], known)
    return list(zip(ids, paths, strict=True))[:limit]


def _fitting_row(row: Row, root: Path) -> str | None:
    """Another row of the same dataset, of another container, whose files are there."""
    for key in keys():
        other = load_row(key)
        if other.family == row.family and other.files != row.files and find_files(root, other.files):
            return key
    return None
