"""MATLAB v5 files, numeric arrays only: a walk over their elements that trusts no number in the file.

    128 bytes: text, version, byte order | element | element | ...
    element: type, size, data; type 14 is an array, type 15 a zlib stream that holds one array
    array: flags (class), dimensions, name, values in the smallest type that holds them, column by column

Source: "MAT-File Format", MathWorks. The usual reader can be made to crash the process by one flipped byte, and takes
everything into memory; here plain arrays are mapped, packed ones are unpacked when asked for.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.readers.raw import LARGEST_RATIO, Array, looks_like

HEADER_BYTES = 128
HEAD_BYTES = 4096
MATRIX, PACKED = 14, 15
VALUE_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
NUMERIC_CLASSES = range(6, 16)
OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "text", 5: "sparse matrix", 16: "function", 17: "object"}
STRUCT = 2
COMPLEX_FLAG = 0x08
MOST_ELEMENTS = 10000


@dataclass(frozen=True)
class Variable:
    """A numeric array: where its element lies in the file, and its values in the (unpacked) element."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    element: int
    size: int
    packed: bool
    values: int


def _tag(head: bytes, at: int, order: str) -> tuple[int, int, int, int]:
    """(type, bytes, start of the data, start of the next tag) of a part of an array."""
    kind, size = struct.unpack_from(f"{order}II", head, at)
    if kind >> 16:  # a small part: type and size share a word, the data follow in the next
        return kind & 0xFFFF, kind >> 16, at + 4, at + 8
    return kind, size, at + 8, at + 8 + -(-size // 8) * 8


def _array(head: bytes, order: str, element: int, size: int, packed: bool) -> Variable | None:
    """The array that begins with `head`, or None if it is no numeric one."""
    _, _, start, at = _tag(head, 0, order)
    (flags,) = struct.unpack_from(f"{order}I", head, start)
    if flags & 0xFF not in NUMERIC_CLASSES or (flags >> 8) & COMPLEX_FLAG:
        return None
    _, count, start, at = _tag(head, at, order)
    shape = struct.unpack_from(f"{order}{count // 4}i", head, start)
    _, count, start, at = _tag(head, at, order)
    name = head[start : start + count].decode("latin-1")
    kind, count, start, _ = _tag(head, at, order)
    if kind not in VALUE_TYPES:
        raise ValueError(f"array {name!r} has values of type {kind}")
    dtype = np.dtype(order + VALUE_TYPES[kind])
    if min(shape, default=0) < 0 or float(np.prod(shape, dtype=np.float64)) * dtype.itemsize != count:
        raise ValueError(f"array {name!r} of {shape} {dtype} does not have {count} bytes")
    if not packed and start + count > size:
        raise ValueError(f"array {name!r} is longer than its element")
    if packed and count > LARGEST_RATIO * size:
        raise ValueError(f"array {name!r} claims {count} bytes, more than {size} packed ones hold")
    return Variable(name, tuple(shape), dtype, element, size, packed, start)


def _other(head: bytes, order: str) -> tuple[str, str]:
    """(name, what it is in words) of a variable that is no numeric array."""
    _, _, start, at = _tag(head, 0, order)
    (flags,) = struct.unpack_from(f"{order}I", head, start)
    kind = "complex array" if flags & 0xFF in NUMERIC_CLASSES else OTHER_CLASSES.get(flags & 0xFF, "variable")
    _, count, start, at = _tag(head, at, order)
    sides = "x".join(str(side) for side in struct.unpack_from(f"{order}{count // 4}i", head, start))
    _, count, start, at = _tag(head, at, order)
    name = head[start : start + count].decode("latin-1")
    if flags & 0xFF != STRUCT:
        return name, f"{sides} {kind}"
    _, _, start, at = _tag(head, at, order)
    (length,) = struct.unpack_from(f"{order}i", head, start)
    _, count, start, _ = _tag(head, at, order)
    text = head[start : start + count]
    fields = [text[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(text), max(length, 1))]
    return name, f"{sides} {kind} of {', '.join(fields[:8])}"


def list_arrays(path: Path, others: dict[str, str] | None = None) -> dict[str, Variable]:
    """Every numeric array of a file, without reading values; `others` takes what is none: name -> words.

    Raises:
        InputError, ValueError, struct.error, zlib.error: it is no such file, or damaged.
    """
    length = path.stat().st_size
    found: dict[str, Variable] = {}
    with path.open("rb") as file:
        marks = file.read(HEADER_BYTES)[126:128]
        if marks not in (b"IM", b"MI"):
            short = "it is cut short, get the file again" if length < HEADER_BYTES else looks_like(path)
            raise InputError(f"{path} is no MATLAB v5 or v7.3 file; {short}")
        order = "<" if marks == b"IM" else ">"
        at, elements = HEADER_BYTES, 0
        while at < length:
            elements += 1
            if elements > MOST_ELEMENTS:
                raise InputError(
                    f"{path} claims more than {MOST_ELEMENTS} variables; it is damaged, get the file again"
                )
            file.seek(at)
            kind, size = struct.unpack(f"{order}II", file.read(8))
            if kind not in (MATRIX, PACKED) or at + 8 + size > length:
                raise InputError(f"{path} is damaged or cut short at byte {at} of {length}; get the file again")
            head = file.read(min(size, HEAD_BYTES))
            if kind == PACKED:
                head = zlib.decompressobj().decompress(head, HEAD_BYTES)[8:]
            variable = _array(head, order, at + 8, size, kind == PACKED) if head else None
            if variable is not None and variable.name:
                found[variable.name] = variable
            elif head and others is not None and variable is None:
                name, words = _other(head, order)
                others |= {name: words} if name else {}
            at += 8 + size
    return found


def read_array(path: Path, variable: Variable) -> Array:
    """The values in the axes that MATLAB shows: mapped if they lie plainly in the file, else unpacked into memory.

    Raises:
        ValueError, zlib.error: the packed values are damaged.
    """
    if not variable.packed:
        at = variable.element + variable.values
        return np.memmap(path, variable.dtype, "r", at, variable.shape, order="F")
    count = int(np.prod(variable.shape)) * variable.dtype.itemsize
    start = 8 + variable.values
    with path.open("rb") as file:
        file.seek(variable.element)
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(file.read(variable.size), start + count)
    if len(body) < start + count:
        raise ValueError(f"array {variable.name!r} is cut short")
    # The rest of the stream is its checksum, which is only looked at when it is read.
    unpacker.decompress(unpacker.unconsumed_tail)
    return np.frombuffer(body, variable.dtype, int(np.prod(variable.shape)), start).reshape(variable.shape, order="F")
