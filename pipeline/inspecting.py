"""`inspect FILE`: one raw scene, cube or shard as a table and a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pipeline.console import console, format_bytes, table
from pipeline.drafting import Guess, draft, fitting_rows, guess
from pipeline.report import paint_labels
from sharding.catalog import UNKNOWN, Row, load_row
from sharding.companions import companion_path
from sharding.errors import ConfigError, InputError, writing
from sharding.manifest import SampleRef
from sharding.peek import Held, Peek, peek
from sharding.planes import PerBand
from sharding.readers import open_raw
from sharding.render import render_rgb
from sharding.sample import Array
from sharding.shards import index_shard
from sharding.store import Cube, open_cube
from sharding.suspicions import axis_suspicions, suspicions, value_range, wavelength_unit

MAX_SIDE = 1024
SHOWN_SAMPLES = 4
SHOWN_ARRAYS, SHOWN_FIELDS = 40, 30


def _spectra(axis: Any, cube_CHW: Array, wl_C: Array, valid: Array) -> None:
    order = np.argsort(wl_C)
    pixels = cube_CHW[:, valid]
    for share, style in ((5, ":"), (50, "-"), (95, ":")):
        axis.plot(wl_C[order], np.percentile(pixels, share, axis=1)[order], style, color="black", linewidth=1)
    axis.set_xlabel("nm")
    axis.set_title("5th, 50th and 95th percentile", fontsize=9)


def _picture_cube(cube_CHW: Array, wl_C: Array, valid: Array, title: str, out: Path) -> None:
    rgb, rule = render_rgb(cube_CHW, wl_C, valid)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.imshow(rgb)
    left.axis("off")
    left.set_title(f"{title}\n{rule}", fontsize=9)
    _spectra(right, cube_CHW, wl_C, valid)
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    with writing(out):
        figure.savefig(out, dpi=110)
    plt.close(figure)
    console.print(f"picture: {out}", highlight=False)


def _facts(title: str, facts: dict[str, Any]) -> None:
    table(title, ["", ""], [[name, str(value)] for name, value in facts.items()])


def _stored(cube: Cube) -> str:
    units = cube.attrs["units"]
    if cube.basis is not None:
        return f"{cube.stored.shape[0]} components, {cube.stored.dtype} scores, {units}"
    scale, offset = (_by_band(cube.attrs[name]) for name in ("scale", "offset"))
    return f"{cube.stored.dtype}, x {scale} + {offset} {units}"


def _by_band(value: PerBand) -> str:
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:g}" if low == high else f"({low:g} to {high:g} by band)"


def _values(cube: Cube, good: Array) -> str:
    told = {name: np.asarray(values)[good] for name, values in cube.attrs["statistics"].items()}
    return (
        f"{told['min'].min():g} to {told['max'].max():g}, bands {told['mean'].min():.3g} to {told['mean'].max():.3g} "
        f"on average, spread {told['std'].min():.3g} to {told['std'].max():.3g}"
    )


def _companions(cube: Cube) -> str:
    words = []
    for name, told in cube.attrs.get("companions", {}).items():
        fits = "" if told.get("registered", True) else ", of another size"
        words.append(f"{name} ({told['file']}{fits})")
    return "; ".join(words) or "-"


def inspect_cube(path: Path, out: Path) -> None:
    """An ingested cube."""
    cube = open_cube(path)
    bands, height, width = cube.shape_CHW
    every = slice(None, None, max(1, -(-max(height, width) // MAX_SIDE)))
    good = cube.good_band
    wl_C = cube.wavelength_nm
    facts = {
        "shape": f"{bands} bands, {height} x {width}",
        "wavelengths": f"{wl_C.min():.1f}-{wl_C.max():.1f} nm",
        "stored": _stored(cube),
        "values": _values(cube, good),
        "bad bands": bands - len(good),
        "invalid pixels": int((~cube.valid()).sum()),
        "saturated pixels": int(cube.saturated().sum()),
        "companions": _companions(cube),
        "sensor": cube.attrs["sensor"],
        "gsd": f"{cube.attrs['gsd_m']} m",
        "note": cube.attrs["note"] or "-",
    }
    _facts(str(path), facts)
    valid = cube.valid(every, every)
    pixels = cube.window(every, every).physical(good) * valid
    _picture_cube(pixels, wl_C[good], valid, path.name, out)


def _beside(path: Path, row: Row) -> str:
    """Companions of a raw scene whose dataset's folder is not known: looked for below each of the nearest folders."""
    path, words = path.absolute(), []
    for one in row.companions:
        places = [companion_path(one, root, path) for root in path.parents[:4]]
        there = next((place for place in places if place.is_file()), None)
        words.append(f"{one.name} ({'not found' if there is None else os.path.relpath(there, path.parent)})")
    return "; ".join(words) or "-"


def inspect_raw(path: Path, row: Row, out: Path) -> None:
    """A raw scene of a catalog row, before ingesting it."""
    raw = open_raw(row, path)
    height, width, bands = raw.shape_HWB
    wl_C = np.asarray(raw.wavelength_nm)
    step = max(1, -(-max(height, width) // MAX_SIDE))
    cube = raw.read(slice(None, None, step), slice(None, None, step)).astype(np.float32)
    valid: Array = np.asarray(np.isfinite(cube).all(-1))
    if raw.valid_HW is not None:
        valid &= raw.valid_HW[::step, ::step]
    facts = {
        "row": f"{row.key} ({row.container})",
        "shape": f"{bands} bands, {height} x {width}, {raw.dtype}",
        "wavelengths": f"{wl_C.min():.1f}-{wl_C.max():.1f} nm",
        "values": f"{np.nanmin(cube):g} to {np.nanmax(cube):g}",
        "companions": _beside(path, row),
        "note": raw.note or "-",
    }
    _facts(str(path), facts)
    pixels = np.moveaxis(np.where(valid[..., None], cube, 0), -1, 0)
    _picture_cube(pixels, wl_C, valid, path.name, out)


def inspect_shard(path: Path, out: Path) -> None:
    """The first samples of a shard."""
    index = index_shard(path)
    if not index:
        raise InputError(f"{path} holds no sample")
    refs = [SampleRef("", key, path, members) for key, members in index.items()]
    rows = []
    for ref in refs:
        meta = ref.meta()
        wl = meta["wavelength_nm"]
        size = format_bytes(sum(member[1] for member in ref.members.values()))
        kinds = len({mask["material"] for mask in meta["masks"]})
        rows.append(
            [ref.key, f"{len(wl)} bands {min(wl):.0f}-{max(wl):.0f} nm", str(len(meta["masks"])), str(kinds), size]
        )
    table(f"{path}: {len(refs)} samples", ["sample", "cube", "masks", "materials", "size"], rows[:40])
    shown = refs[:SHOWN_SAMPLES]
    figure, axes = plt.subplots(len(shown), 3, figsize=(8, 2.7 * len(shown)), layout="constrained", squeeze=False)
    for row_axes, ref in zip(axes, shown, strict=True):
        pictures = (
            ref.picture("rgb"),
            paint_labels(ref.picture("instances")),
            paint_labels(ref.picture("materials"), 7),
        )
        for axis, picture, name in zip(row_axes, pictures, (ref.key, "masks", "materials"), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
            axis.set_title(name, fontsize=7)
    _save(figure, out)


def inspect_unknown(path: Path, draft_path: Path | None) -> None:
    """A file that no row is given for: what it holds, what looks odd, and perhaps the draft of a row."""
    peeked = peek(path)
    found = guess(peeked)
    rows = [[held.name or "-", _sides(held), held.dtype, value_range(held), _role(held, found)]
            for held in peeked.arrays[:SHOWN_ARRAYS]]  # fmt: skip
    table(f"{path}: {peeked.container}", ["array", "shape", "type", "values", "looks like"], rows)
    more = len(peeked.arrays) - SHOWN_ARRAYS
    fields = peeked.header | {f"{held.name} {key}": text for held in peeked.arrays for key, text in held.facts.items()}
    if fields:
        _facts("it says of itself", dict(list(fields.items())[:SHOWN_FIELDS]))
    words = [
        word for held in found.cubes for word in suspicions(held, found.axes, found.reflectance and not found.scaled)
    ]
    words += [word for held in found.vectors for word in axis_suspicions(held)]
    words += [f"{more} more arrays are not shown"] if more > 0 else []
    words += [f"{len(found.cubes)} arrays could be the cube"] if len(found.cubes) > 1 else []
    for word in words:
        console.print(f"[bold yellow]note[/bold yellow] {word}", highlight=False)
    fitting = fitting_rows(path, peeked)
    if fitting:
        console.print(
            f"rows of the catalog that fit: {', '.join(fitting)}; look with --row {fitting[0]}", highlight=False
        )
    if draft_path is not None:
        _write_draft(path, peeked, draft_path)
    elif not fitting:
        console.print("a row to begin with: --draft camera.yaml", highlight=False)


def _sides(held: Held) -> str:
    return " x ".join(str(side) for side in held.shape) or "-"


def _role(held: Held, found: Guess) -> str:
    unit = wavelength_unit(held)
    if any(held is cube for cube in found.cubes):
        return f"the cube ({found.axes})" if found.axes else "the cube"
    fits = any(held is vector for vector in found.vectors)
    return f"wavelengths in {unit}" if unit and fits else "-"


def _write_draft(path: Path, peeked: Peek, draft_path: Path) -> None:
    if draft_path.exists():
        raise ConfigError(f"{draft_path} is there already; name another file with --draft, or take it away")
    with writing(draft_path):
        draft_path.write_text(draft(path, peeked))
    console.print(f"draft: {draft_path}; fill in {UNKNOWN}, then look again with --row {draft_path}", highlight=False)


def inspect(path: Path, row: str | None, out: Path | None, draft_path: Path | None = None) -> None:
    """Show a file, whatever it is.

    Raises:
        InputError, ConfigError: it is nothing we know, or it has a row and a draft is asked for.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if draft_path is not None and (row is not None or path.is_dir() or path.suffix == ".tar"):
        raise ConfigError("--draft writes a row for a raw file that has none; leave --row away")
    out = out or Path(f"inspect-{path.stem}.png")
    if path.is_dir() and (path / "zarr.json").is_file():
        inspect_cube(path, out)
    elif path.suffix == ".tar":
        inspect_shard(path, out)
    elif row is not None:
        inspect_raw(path, load_row(row), out)
    elif path.is_dir():
        raise ConfigError(f"{path} is a folder; give one file of it, or a cube of a work folder")
    else:
        inspect_unknown(path, draft_path)
