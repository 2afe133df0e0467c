"""What a scene is made of: its files, their hashes, and which of them is another one than when it was ingested.

A record holds every file that the scene was read from, header, data, bands and companions: {file, size, time, sha256}.
A file whose size and time are as the record says is not read again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from sharding.catalog import Row
from sharding.companions import companion_path
from sharding.folders import is_litter
from sharding.readers.png_bands import band_files
from sharding.readers.references import reference_files
from sharding.records import Record, fingerprint, sha256_file

HEADER = ".hdr"
NOTES = ".aux.xml"  # GDAL's, beside a picture: scale, offset and fill value
# What lies beside a header under the same name and is never its data.
NO_DATA = frozenset({
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".txt", ".csv", ".json", ".xml", ".yaml", ".yml", ".npy",
    ".npz", ".mat", ".md", ".html", ".pdf", ".enp", ".ovr", ".kml", ".shp", ".zip",
})  # fmt: skip
SHOWN = 3


@lru_cache(maxsize=64)
def _by_stem(folder: str, changed: int) -> dict[str, list[str]]:  # noqa: ARG001 - a folder that changed is read anew
    """Names of the files in a folder by each stem that they may be called by, in small letters."""
    found: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not is_litter(entry.name) and entry.is_file())
    for name in names:
        for stem in {name.lower(), Path(name).stem.lower()}:
            found.setdefault(stem, []).append(name)
    return found


def _named(folder: Path, stem: str) -> list[Path]:
    """Files of a folder that are called `stem`, with any ending or none, in letters of either case."""
    names = _by_stem(str(folder), folder.stat().st_mtime_ns).get(stem.lower(), [])
    return [folder / name for name in names]


def scene_pair(path: Path) -> list[Path]:
    """An ENVI header with every file that may be its data, or a data file with every file that may be its header."""
    if path.suffix.lower() == HEADER:
        beside = _named(path.parent, path.stem)
        return [path, *(other for other in beside if other.suffix.lower() not in NO_DATA | {HEADER})]
    return [path, *(other for stem in {path.stem, path.name} for other in _named(path.parent, stem)
                    if other.suffix.lower() == HEADER)]  # fmt: skip


def scene_files(row: Row, root: Path, path: Path) -> list[Path]:
    """Every file that a scene may be read from, as far as names tell, with its companions that are there."""
    files = [path]
    if row.container == "envi":
        files = scene_pair(path)
    if row.container == "png-bands":
        files = list(band_files(path).values()) or files
    beside = [file.with_name(f"{file.name}{NOTES}") for file in files]
    beside += [own for kind in ("white", "dark") for own in reference_files(row, path, kind)]
    beside += [companion_path(companion, root, path) for companion in row.companions]
    return list(dict.fromkeys(files + [other for other in beside if other.is_file()]))


def _label(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


class Inputs:
    """The files of a scene with their sha256, each taken in a thread of its own while the scene is being read."""

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self.root, self.pool = root, ThreadPoolExecutor(1)
        self.jobs: dict[Path, Future[str]] = {}
        self.stats: dict[Path, os.stat_result | None] = {}
        self.add(files)

    @classmethod
    def of(cls, row: Row, root: Path, path: Path) -> Inputs:
        """Of one scene."""
        try:
            return cls(root, scene_files(row, root, path))
        except OSError:
            return cls(root, [path])

    def add(self, files: Sequence[Path]) -> None:
        """More files, which the reader found."""
        for file in files:
            if file not in self.jobs:
                # Looked at before it is read: a file that changes meanwhile is another one to the next run.
                self.stats[file] = file.stat() if file.is_file() else None
                self.jobs[file] = self.pool.submit(sha256_file, file)

    def __call__(self, path: Path) -> str:
        """The sha256 of a file; waits for it."""
        self.add([path])
        return self.jobs[path].result()

    def rows(self) -> list[dict[str, Any]]:
        """What the record holds, a line for each file in the order of their names."""
        rows = []
        for file in sorted(self.jobs, key=lambda file: _label(self.root, file)):
            status = self.stats[file]
            row: dict[str, Any] = {"file": _label(self.root, file)}
            try:
                if status is not None:
                    row |= {"size": status.st_size, "time": status.st_mtime_ns, "sha256": self(file)}
            except OSError as error:
                row["unreadable"] = error.strerror
            rows.append(row)
        return rows

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()


def source_row(name: str, file: Path) -> dict[str, Any]:
    """A file's row in a record."""
    status = file.stat()
    return {"file": name, "size": status.st_size, "time": status.st_mtime_ns, "sha256": sha256_file(file)}


def fingerprint_of(rows: Sequence[dict[str, Any]]) -> str:
    """Of the names and contents of all files together."""
    return fingerprint([[row["file"], row.get("sha256", row.get("unreadable"))] for row in rows])


def look_again(row: Row, root: Path, path: Path, record: Record) -> tuple[str, str]:
    """(fingerprint of a scene's files as they are now, in words what is another than in its record, or "")."""
    before = {line["file"]: line for line in record.extra.get("inputs", [])}
    if not before:
        return "unknown", "its record does not say what it was made of"
    try:
        now = {_label(root, file): file for file in scene_files(row, root, path)}
    except OSError as error:
        return f"unreadable: {error.strerror}", f"{path}: {error.strerror}"
    now = {name: root / name for name in before} | now
    changes = [words for name, file in now.items() if (words := change_of(name, file, before.get(name)))]
    if not changes:
        return record.inputs, ""
    shown = "; ".join(changes[:SHOWN]) + ("; ..." if len(changes) > SHOWN else "")
    return fingerprint(["changed", record.inputs, changes]), shown


def change_of(name: str, file: Path, before: dict[str, Any] | None) -> str:
    """What is another about one file than in its row of a record, in words; empty if nothing is."""
    if not file.is_file():
        return f"{name} is gone" if before is not None and "sha256" in before else ""
    if before is None:
        return f"{name} is new"
    status = file.stat()
    if [status.st_size, status.st_mtime_ns] == [before.get("size"), before.get("time")]:
        return ""
    if "sha256" not in before:
        return f"{name} can be read now"
    return "" if sha256_file(file) == before["sha256"] else f"{name} has another content"
