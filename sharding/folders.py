"""Looking through folders as people have them: linked folders are followed, what systems leave behind is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fnmatch import translate
from pathlib import Path, PurePath
from re import compile as compiled

from sharding.errors import InputError

APPLE_DOUBLE = "._"  # what a Mac writes beside every file on a disk of another system
LITTER = frozenset({
    ".DS_Store", "__MACOSX", ".AppleDouble", ".Spotlight-V100", ".Trashes", ".fseventsd", ".ipynb_checkpoints",
    "Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "lost+found",
})  # fmt: skip
ANY_DEPTH = "**"


def is_litter(name: str) -> bool:
    """Whether a file or folder is one that a system or an editor left, by its name."""
    return name in LITTER or name.startswith(APPLE_DOUBLE)


def has_litter(relative: PurePath) -> bool:
    """Whether a path lies in, or is, such a file or folder."""
    return any(is_litter(part) for part in relative.parts)


class _Pattern:
    """A glob, followed folder by folder: a state is the number of the next part to fit."""

    def __init__(self, pattern: str) -> None:
        path = PurePath(pattern)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise InputError(f"files {pattern!r} must be a pattern below the root, like '**/*.mat'")
        self.fits: list[Callable[[str], object] | None] = [
            None if part == ANY_DEPTH else compiled(translate(part)).match for part in path.parts
        ]
        self.first = self.closed({0})

    def closed(self, states: set[int]) -> frozenset[int]:
        """With those that follow because `**` may stand for no folder at all."""
        found = set(states)
        for state in sorted(states):
            while state < len(self.fits) and self.fits[state] is None:
                state += 1
                found.add(state)
        return frozenset(found)

    def into(self, states: frozenset[int], name: str) -> frozenset[int]:
        """The states inside a folder of this name; empty if nothing below it can fit."""
        inside = set()
        for state in states:
            if state < len(self.fits):
                fits = self.fits[state]
                if fits is None:
                    inside.add(state)
                elif fits(name):
                    inside.add(state + 1)
        return self.closed(inside)

    def takes(self, states: frozenset[int], name: str) -> bool:
        """Whether a file of this name fits."""
        last = len(self.fits) - 1
        fits = self.fits[last]
        return last in states and fits is not None and bool(fits(name))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not is_litter(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be looked through: {error.strerror}; mend its mode or take it away"
        ) from error


def _walk(
    folder: str, real: str, above: frozenset[str], pattern: _Pattern, states: frozenset[int], linked: bool
) -> Iterator[tuple[str, bool]]:
    """(file, whether it was reached through a linked folder); `above` are the real folders that lead here."""
    for entry in _entries(folder):
        if entry.is_dir():
            inside = pattern.into(states, entry.name)
            place = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
            # A link to a folder that holds this one would lead here again.
            circles = place in above or any(parent.startswith(f"{place.rstrip('/')}/") for parent in above)
            if inside and not circles:
                yield from _walk(entry.path, place, above | {place}, pattern, inside, linked or entry.is_symlink())
        elif pattern.takes(states, entry.name) and (entry.is_file() or entry.is_symlink()):
            yield entry.path, linked  # a link to nowhere too: it becomes a failure that names it


def find_files(root: Path, glob: str) -> list[Path]:
    """Every file below `root` that fits a glob, sorted by path; each once, however many linked folders lead to it.

    Links to folders are followed, except round in a circle. Letters of either case are different, `*` takes hidden
    names too.

    Raises:
        InputError: the glob is none below a folder, or a folder cannot be read.
    """
    pattern, top = _Pattern(glob), os.path.realpath(root)
    found = list(_walk(str(root), top, frozenset({top}), pattern, pattern.first, False))
    if any(linked for _, linked in found):
        own: dict[str, str] = {}
        for path, _ in sorted(found, key=lambda pair: (pair[1], pair[0])):
            folder, name = os.path.split(path)
            own.setdefault(f"{os.path.realpath(folder)}/{name}", path)
        return sorted(Path(path) for path in own.values())
    return sorted(Path(path) for path, _ in found)
