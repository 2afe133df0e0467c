"""A row for a camera that nobody has described yet: what its file tells, and `???` for what a person has to say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from sharding.catalog import UNKNOWN, keys, load_row
from sharding.peek import Held, Peek
from sharding.suspicions import plateaus, wavelength_unit

NAMED = re.compile(r"wav|lambda|wl|nm|band", re.IGNORECASE)
ENVI_METRES = ("map info", "pixel size")


@dataclass
class Guess:
    """What a file seems to be.

    Fields:
        cubes: arrays that may be the cube, the largest ones; one, if the file is clear.
        axes: of the cube, letters h, w, b; "" if nothing tells.
        vectors: arrays that look like wavelengths, of the length of the cube's bands where that is known.
        reflectance, scaled: whether some name or field speaks of reflectance, or of a scale or gain.
    """

    cubes: list[Held]
    axes: str = ""
    vectors: list[Held] = field(default_factory=list)
    reflectance: bool = False
    scaled: bool = False


def guess(peeked: Peek) -> Guess:
    """Which array is the cube, in which axes, and where its wavelengths are."""
    cubes = [held for held in peeked.arrays if held.is_cube]
    sizes = [float(np.prod(held.shape)) for held in cubes]
    cubes = [held for held, size in zip(cubes, sizes, strict=True) if size == max(sizes)]
    vectors = [held for held in peeked.arrays if wavelength_unit(held)]
    axes = {held.axes for held in cubes}.pop() if len({held.axes for held in cubes}) == 1 else ""
    if cubes and not axes:
        axes = _axes_by(cubes[0], vectors)
    if cubes and axes:
        bands = cubes[0].shape[axes.index("b")]
        vectors = [held for held in vectors if max(held.shape) == bands]
    elif cubes:
        vectors = [held for held in vectors if max(held.shape) in cubes[0].shape]
    named = [held for held in vectors if NAMED.search(held.name)]
    words = " ".join([*(held.name for held in peeked.arrays), *(f"{k} {v}" for k, v in peeked.header.items())]).lower()
    words += " ".join(f"{key} {text}" for held in peeked.arrays for key, text in held.facts.items()).lower()
    scaled = "scale" in words or "gain" in words
    return Guess(cubes, axes, named or vectors, "reflect" in words, scaled)


def _axes_by(cube: Held, vectors: list[Held]) -> str:
    """The axes, if the length of a vector of wavelengths is that of one axis alone."""
    lengths = {max(held.shape) for held in vectors if NAMED.search(held.name)} or {max(h.shape) for h in vectors}
    fitting = [axis for axis, side in enumerate(cube.shape) if side in lengths]
    return ("bhw", "hbw", "hwb")[fitting[0]] if len(fitting) == 1 else ""


def _line(key: str, value: str, comment: str = "") -> str:
    return f"{key}: {value}" + (f"   # {comment}" if comment else "")


def _quoted(name: str) -> str:
    """A name as YAML takes it: 2022_001 and on would be a number and a switch."""
    plain = re.fullmatch(r"[\w/]+", name) and yaml.safe_load(name) == name
    return name if plain else "'" + name.replace("'", "''") + "'"


def _variable(container: str, cubes: list[Held]) -> list[str]:
    if container not in ("mat", "hdf5", "npz"):
        return []
    if len(cubes) == 1:
        return [_line("variable", _quoted(cubes[0].name), f"{cubes[0].shape} {cubes[0].dtype}")]
    names = ", ".join(f"{held.name} {held.shape} {held.dtype}" for held in cubes)
    return [_line("variable", UNKNOWN, f"could be {names}" if names else "the file holds no array of three axes")]


def _axes(container: str, found: Guess) -> list[str]:
    if container in ("envi", "mosaic-png", "png-bands", "hsd"):
        return []
    if found.axes:
        return [_line("axes", found.axes)]
    sides = f"the cube is {found.cubes[0].shape}; " if found.cubes else ""
    return [_line("axes", UNKNOWN, f"{sides}hwb, bhw or hbw: where height, width and band are")]


def _wavelength(container: str, found: Guess) -> list[str]:
    how = "a list in nm, or {start: 400, stop: 1000, count: 204}"
    if container == "hsd" or (container == "envi" and any(held.name == "wavelength" for held in found.vectors)):
        return [_line("wavelength", "file")]
    vectors = found.vectors
    if len(vectors) > 1:
        names = " or ".join(f"{{variable: {_quoted(held.name)}}}" for held in vectors)
        return [_line("wavelength", UNKNOWN, f"could be {names}")]
    if not vectors or container not in ("mat", "hdf5"):
        if len(vectors) == 1 and vectors[0].values is not None:
            factor = 1000.0 if wavelength_unit(vectors[0]) == "um" else 1.0
            values = ", ".join(f"{value * factor:.10g}" for value in np.ravel(vectors[0].values).astype(float))
            return [_line("wavelength", f"[{values}]", f"those of {vectors[0].name}")]
        return [_line("wavelength", UNKNOWN, f"the file tells none: {how}")]
    if wavelength_unit(vectors[0]) == "um":
        return [_line("wavelength", UNKNOWN, f"{vectors[0].name} is in micrometres: give it times 1000, as {how}")]
    return [_line("wavelength", f"{{variable: {_quoted(vectors[0].name)}}}")]


def _values(found: Guess) -> list[str]:
    cube = found.cubes[0] if len(found.cubes) == 1 else None
    lines = [_line("units", "reflectance" if found.reflectance else UNKNOWN,
                   "the file speaks of it" if found.reflectance else "reflectance, radiance, counts ...")]  # fmt: skip
    if cube is not None and cube.values is not None:
        if found.reflectance and not found.scaled and cube.values.dtype.kind in "iu":
            lines.append(_line("scale", UNKNOWN, f"integers up to {cube.values.max():g}: 0.0001 if 10000 stands for 1"))
        low = [f"{value:g}" for value, _ in plateaus(cube.values)]
        if low:
            lines.append(
                f"# nodata: {low[0]}   # {' and '.join(low)} occur very often: take the sign # away if missing"
            )
    return lines


def draft(path: Path, peeked: Peek) -> str:
    """The text of a row."""
    found = guess(peeked)
    key = re.sub(r"\W+", "_", path.stem.lower()).strip("_")[:40] or "mycam"
    files = peeked.files or f"**/*{path.suffix}"
    lines = [
        f"# Drafted from {ascii(path.name)[1:-1]}. {UNKNOWN} is what the file does not tell: fill it in.",
        _line("key", _quoted(key), "a name for this camera or dataset"),
        _line("container", peeked.container),
        _line("files", "'" + files.replace("'", "''") + "'", "below the root; every match is one scene"),
        *_variable(peeked.container, found.cubes),
        *_axes(peeked.container, found),
        *([_line("mosaic", f"{{cell: '{UNKNOWN}'}}", "side of a filter cell")] * (peeked.container == "mosaic-png")),
        *_wavelength(peeked.container, found),
        *_values(found),
        _line("gsd_m", UNKNOWN, "metres of the scene in one pixel"),
        _line("sensor", UNKNOWN, "camera, in words"),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def fitting_rows(path: Path, peeked: Peek) -> list[str]:
    """Rows of the catalog that may be the one of this file: same container, name, variable and number of bands."""
    found = []
    cubes = {held.name: held for held in peeked.arrays if held.is_cube}
    scene = peeked.scene or path
    for key in keys():
        row = load_row(key)
        own = [held for name, held in cubes.items() if row.variable in (None, name)]
        told = row.bands and not row.keep_bands and any(row.bands in held.shape for held in own)
        if told and row.container == peeked.container and scene.match(row.files.removeprefix("**/")):
            found.append(key)
    return found
