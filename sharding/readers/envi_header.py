"""The text header of an ENVI file as a dictionary: any of the usual encodings, braces, comments and blank lines.

key = value            key = {value, value, ...} over as many lines as it takes            ; comment
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import InputError

MOST_BYTES = 16 << 20
TEXTS = ("description", "map info", "projection info", "coordinate system string", "rpc info", "geo points")
READ = (
    "samples", "lines", "bands", "header offset", "file type", "data type", "interleave", "byte order", "wavelength",
    "wavelength units", "fwhm", "bbl", "data ignore value", "data gain values", "data offset values",
    "data reflectance gain values", "data reflectance offset values", "reflectance scale factor", "file compression",
    "major frame offsets", "minor frame offsets",
)  # fmt: skip
NEAR = 0.8
NUMERALS = frozenset("+-.0123456789eE \t")
MOST_KEYS = 1000


@dataclass(frozen=True)
class Header:
    """Keys in small letters with single blanks; a value is its text without the outer braces."""

    path: Path
    values: dict[str, str]
    notes: tuple[str, ...] = ()

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def text(self, key: str, otherwise: str = "") -> str:
        """A value as text."""
        return self.values.get(key, otherwise)

    def words(self, key: str) -> list[str]:
        """A value as a list; [] if the key is missing or empty. Numbers may also lie apart by blanks alone."""
        text = self.values.get(key, "").partition(";")[0].strip().strip(",").strip()
        words = [word.strip() for word in text.split(",")] if text else []
        return [part for word in words for part in (word.split() if word and set(word) <= NUMERALS else [word])]

    def whole(self, key: str, otherwise: int | None = None, least: int = 1) -> int:
        """A whole number.

        Raises:
            InputError: it is missing, something else, or less than `least`.
        """
        text = self.values.get(key, "" if otherwise is None else str(otherwise)).partition(";")[0].strip().strip(",")
        try:
            value = float(text) if "." in text else int(text)
            if value != int(value):
                raise ValueError
        except (ValueError, OverflowError) as error:
            near = nearest(self, key)
            hint = f" (was {near!r} meant as it?)" if near else ""
            got = f", but {text[:40]!r}" if text else ""
            raise InputError(
                f"{self.path}: the header key {key!r} is missing or not a whole number{got}{hint}"
            ) from error
        if value < least:
            raise InputError(f"{self.path}: the header key {key!r} is {text[:40]}, which cannot be meant")
        return int(value)


def _decoded(data: bytes) -> str:
    """Text of one of the encodings that editors and cameras write."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_header(path: Path) -> Header:
    """Parse a header.

    Raises:
        InputError: it is none, or a brace is not closed.
    """
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES} bytes, it is no ENVI header")
    lines = _decoded(path.read_bytes()).splitlines()
    if not lines or not lines[0].strip().upper().startswith("ENVI"):
        raise InputError(f"{path} is no ENVI header: its first line must be ENVI; name the header or mend files")
    values: dict[str, str] = {}
    notes = []
    at = 1
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        key, sign, value = line.partition("=")
        if not sign or line.startswith(";"):
            continue
        key = " ".join(key.replace("_", " ").lower().split())
        value = value.strip()
        if value.startswith("{"):
            value, at = _braced(path, key, lines, at - 1)
        if key in values and values[key] != value:
            notes.append(f"the header says {key!r} twice, the last counts")
        values[key] = value
        if len(values) > MOST_KEYS:
            raise InputError(f"{path} has more than {MOST_KEYS} keys, it is no ENVI header")
    return Header(path, values, tuple(notes))


def _braced(path: Path, key: str, lines: Sequence[str], at: int) -> tuple[str, int]:
    """(text within the braces that open in a line, the line after them)."""
    start, parts = at, []
    while at < len(lines):
        line = lines[at].strip() if at > start else lines[at].partition("=")[2].strip()[1:]
        at += 1
        if at - 1 > start and line.startswith(";"):
            continue
        end = line.rfind("}") if key in TEXTS else line.find("}")
        if end >= 0:
            parts.append(line[:end])
            return " ".join(parts).strip(), at
        parts.append(line)
    raise InputError(f"{path}: the brace of {key!r} is not closed; close it, or get the file again if it is cut short")


def nearest(header: Header, key: str) -> str:
    """A key of the header that is not read and looks like `key`, or ""."""
    others = [name for name in header.values if name not in READ]
    return next(iter(difflib.get_close_matches(key, others, 1, NEAR)), "")


def misspelt(header: Header) -> dict[str, str]:
    """Keys that are not read, and the missing one that each looks like."""
    missing = [key for key in READ if key not in header]
    found = {}
    for name in header.values:
        near = [] if name in READ else difflib.get_close_matches(name, missing, 1, NEAR)
        if near:
            found[name] = near[0]
    return found
