"""Which array of a file is the cube: the one that the row names, or the only largest one. Never one of two equals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError

MOST_LISTED = 12


class Held(NamedTuple):
    """An array that a file holds; `kind` is a word for what is no array of numbers."""

    shape: tuple[int, ...]
    dtype: str
    kind: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether it is a row or column of numbers."""
        return not self.kind and max(self.shape, default=0) == int(np.prod(self.shape, dtype=np.float64)) > 1

    def __str__(self) -> str:
        return self.kind or f"{self.shape} {self.dtype}"


def listed(held: Mapping[str, Held]) -> str:
    """Name, shape and type of each array."""
    words = [f"{name} {array}" for name, array in list(held.items())[:MOST_LISTED]]
    more = [f"{len(held) - MOST_LISTED} more"] if len(held) > MOST_LISTED else []
    return ", ".join(words + more) or "nothing"


def full_name(wanted: str, held: Mapping[str, Any], path: Path, what: str = "variable") -> str | None:
    """The name that is meant: itself, or the only one whose last part it is; None if there is none.

    Raises:
        InputError: several have it as their last part.
    """
    if wanted in held:
        return wanted
    ends = [name for name in held if name.endswith((f"/{wanted}", f".{wanted}"))]
    if len(ends) > 1:
        raise InputError(f"{path} holds {len(ends)} arrays named {wanted!r}: {', '.join(ends)}; say which with {what}")
    return ends[0] if ends else None


def choose_cube(row: Row, path: Path, held: Mapping[str, Held]) -> tuple[str, str]:
    """Name of the array that is the cube, and what to note of the choice.

    With `shape` in the row the array has two axes, bands and pixels, else three.

    Raises:
        InputError: there is none, or several are as large; it lists what there is.
    """
    axes = 3 if row.shape is None else 2
    what = "3-D array" if axes == 3 else "bands x pixels matrix"
    fitting = {name: array for name, array in held.items() if _fits(row, array, axes)}
    if row.variable is not None:
        name = full_name(row.variable, held, path)
        if name is None or name not in fitting:
            raise InputError(
                f"{path} has no {what} {row.variable!r} of numbers (it holds {listed(held)}); {_advice(held)}"
            )
        return name, ""
    cubes = {name: array for name, array in fitting.items() if not name.startswith("#")}
    if not cubes:
        raise InputError(f"{path} holds no {what} of numbers (it holds {listed(held)}); {_advice(held)}")
    sizes = {name: float(np.prod(array.shape, dtype=np.float64)) for name, array in cubes.items()}
    largest = [name for name, size in sizes.items() if size == max(sizes.values())]
    if len(largest) > 1:
        raise InputError(
            f"{path} holds {len(largest)} arrays of one size that could be the cube: "
            f"{listed({name: cubes[name] for name in largest})}; say which with variable: {largest[0]} in row {row.key}"
        )
    if len(cubes) == 1:
        return largest[0], ""
    return largest[0], f"{largest[0]} is the cube, the largest of {listed(cubes)}"


def _fits(row: Row, array: Held, axes: int) -> bool:
    if array.kind or len(array.shape) != axes:
        return False
    pixels = 0 if row.shape is None else row.shape[0] * row.shape[1]
    return row.shape is None or (pixels in array.shape and pixels > 0)


def _advice(held: Mapping[str, Held]) -> str:
    """What to type."""
    if any(not array.kind and len(array.shape) == 3 for array in held.values()):
        return "mend variable in the row"
    if any(word in array.kind for array in held.values() for word in ("struct", "cell")):
        return "save the array in the struct or cell as a variable of its own (MATLAB: save('new.mat', '-struct', 's'))"
    if any("object" in array.kind for array in held.values()):
        return "save it as a plain array of numbers"
    if any(not array.kind and len(array.shape) == 2 and min(array.shape) > 1 for array in held.values()):
        return "name the cube with variable, or give shape: [height, width] if it is a bands x pixels matrix"
    if any(len(array.shape) > 3 for array in held.values()):
        return "save one cube of three axes a file, or name another array with variable"
    return "name the cube with variable in the row"


def find_vector(row: Row, held: Mapping[str, Held], path: Path) -> tuple[str, str]:
    """(name of the vector of wavelengths or "", why there is none although the row expects one)."""
    wanted = vector_names(row)
    for want in wanted:
        name = full_name(want, held, path, "wavelength: {variable: NAME}")
        if name is not None and not held[name].kind:
            return name, ""
    vectors = [name for name, array in held.items() if array.is_vector]
    there = ", ".join(vectors[:MOST_LISTED]) or "no vector"
    return "", f"the file has no vector {' or '.join(wanted)} (it holds {there})" if wanted else ""


def vector_names(row: Row) -> list[str]:
    """Names of the wavelength vector to look for in the cube's own file, first hit wins."""
    if not isinstance(row.wavelength, dict) or "variable" not in row.wavelength:
        return []
    name = row.wavelength["variable"]
    return [name] if isinstance(name, str) else list(name)
