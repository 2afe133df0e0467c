"""The catalog: one declarative row per dataset, and the user's own camera as one more row.

A row says where the files are, how they are laid out, and what their bands mean. Known rows lie in
`sharding/rows/`; a YAML file of the same form describes any other camera.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import Any

from sharding.errors import ConfigError
from sharding.schema import load_yaml, typed

ROWS = Path(__file__).parent / "rows"
CONTAINERS = ("mat", "hdf5", "envi", "npy", "npz", "tiff", "mosaic-png", "png-bands", "hsd")
COMPANION_KINDS = ("rgb", "labels", "picture", "boxes")
WORDS = ("title", "family", "scenes", "licence", "labels", "download", "layout", "confidence", "differs", "files",
         "bands", "max_failed")  # fmt: skip
UNKNOWN = "???"
"""What `inspect --draft` writes where a person has to say something."""
SPATIAL_OPS = ("rot90cw", "rot90ccw", "transpose", "fliplr", "flipud")


@dataclass
class Mosaic:
    """A snapshot mosaic: side of the filter cell and the cell positions that hold no band."""

    cell: int = 4
    drop: list[int] = field(default_factory=list)


@dataclass
class Companion:
    """A file beside each scene, or an array in a file, and how its path follows from the scene's.

    Fields:
        kind: rgb (a colour picture of the scene), labels (a map of class ids), picture (anything else to look at),
            boxes (a line of a sequence's box file).
        variable: array in an .npz or .mat; with an empty suffix it is in the scene's own file.
        folders: whole folder names to replace (by "" = leave out); stem: parts of the file name to replace.
        prefix, suffix: before the stem; file extension.
        order: colour order of the file, rgb or bgr.
        turned: whether it lies as the cube does on disk, so that `spatial_ops` turn it as well.
    """

    name: str
    kind: str
    suffix: str = ".png"
    folders: dict[str, str] = field(default_factory=dict)
    stem: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    order: str = "rgb"
    turned: bool = True
    variable: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.kind not in COMPANION_KINDS:
            raise ValueError(f"companion kind {self.kind!r} is not one of {', '.join(COMPANION_KINDS)}")
        if not self.suffix and not self.variable:
            raise ValueError(f"companion {self.name!r} in the scene's own file (suffix '') needs variable")
        if self.order not in ("rgb", "bgr") or (self.order == "bgr" and self.kind != "rgb"):
            raise ValueError(f"companion order {self.order!r} is not rgb, or bgr of an rgb companion")


@dataclass
class Row:
    """How to read one dataset.

    Fields:
        container: mat (v5 and v7.3), hdf5, envi, npy, npz, tiff, mosaic-png, png-bands (one picture per band) or hsd.
        files: glob below the dataset's folder; every match is one scene.
        variable: array in a .mat, .h5 or .npz (none = its only largest 3-D array), or number of a series of a TIFF.
        axes: order of the axes of that array, letters h, w, b.
        shape: [height, width] of a matrix of bands x pixels; `axes` is then the order after it is unfolded, in the
            language of the container: of MATLAB's reshape(cube, h * w, b) it is hwb.
        spatial_ops: turns applied to the image plane after reading, in order.
        wavelength: "file" (header or file header), a list in nm, {start, stop, count}, {start, step, count},
            {start, step} for as many bands as the file has, or {variable: NAME or [NAMES]} for a vector beside the
            cube in its file. There is no default.
        wavelength_else: the same, for files that do not tell theirs where `wavelength` expects it of them.
        bands: how many the published files have; another number is refused.
        invalid_rows: lines of the image, as on disk, that hold no signal.
        fwhm_nm: one width for all bands, a list, "file", or none if unknown.
        units, scale, offset: physical value = stored * scale + offset; none = what the file says, or 1 and 0.
        keep_bands: bands of the file that are kept, numbers and "first-last" from 0 (none = all); wavelengths of the
            row are those of the kept bands.
        nodata: stored value of a missing pixel; valid_variable: a mask in the same .mat, non-zero = valid.
        white, dark: references of a line scanner, a path from the scene's folder in which {name} stands for the
            scene's file name without ending ("WHITEREF_{name}.hdr"), or {variable: NAME} for an array of the same file.
            Values become (scene - dark) / (white - dark), to which scale and offset of the row apply.
        exposure: {scene: T, white: T}, where the files do not tell theirs.
        gsd_m: ground sampling distance in metres.
        companions: pictures, label maps and boxes beside the scenes.
        max_failed: how many scenes are known to be bad as they are published: they do not count as failures.
        splits: published splits, name -> patterns of the scene's /path below the root, where * stands for anything,
            folders too; the first that fits counts.
        family, scenes: the dataset it belongs to and how many scenes are published or listed.
        labels, layout: what labels there are; what to put where below the root.
        confidence: what is doubtful about this row, in words.
        differs: what the public reader does differently.
    """

    key: str
    container: str
    files: str
    wavelength: Any
    gsd_m: float
    title: str = ""
    family: str = ""
    wavelength_else: Any = None
    bands: int | None = None
    scenes: int | None = None
    variable: str | None = None
    shape: list[int] | None = None
    axes: str = "hwb"
    spatial_ops: list[str] = field(default_factory=list)
    fwhm_nm: Any = None
    units: str = "unknown"
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    white: Any = None
    dark: Any = None
    exposure: dict[str, float] | None = None
    valid_variable: str | None = None
    keep_bands: list[str] | None = None
    invalid_rows: list[int] = field(default_factory=list)
    mosaic: Mosaic | None = None
    companions: list[Companion] = field(default_factory=list)
    max_failed: int = 0
    splits: dict[str, list[str]] = field(default_factory=dict)
    sensor: str = "unknown"
    licence: str = "unknown"
    download: str = ""
    labels: str = "not registered"
    layout: str = ""
    confidence: str = ""
    differs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a row that cannot be meant."""
        if self.container not in CONTAINERS:
            raise ValueError(f"container {self.container!r} is not one of {', '.join(CONTAINERS)}")
        if sorted(self.axes) != sorted("hwb"):
            raise ValueError(f"axes {self.axes!r} must be the letters h, w and b in the order on disk")
        wrong = [op for op in self.spatial_ops if op not in SPATIAL_OPS]
        if wrong:
            raise ValueError(f"spatial_ops {wrong[0]!r} is not one of {', '.join(SPATIAL_OPS)}")
        if self.container == "mosaic-png" and self.mosaic is None:
            raise ValueError("a mosaic-png row needs mosaic: {cell: 4}")
        if not (math.isfinite(self.gsd_m) and self.gsd_m > 0):
            raise ValueError(f"gsd_m must be a positive number of metres, not {self.gsd_m}")
        if self.spatial_ops and any(companion.kind == "boxes" for companion in self.companions):
            raise ValueError("boxes of a dataset whose image plane is turned are not read")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale):
            raise ValueError(f"scale must be a finite number that is not 0, not {self.scale}")
        if self.offset is not None and not math.isfinite(self.offset):
            raise ValueError(f"offset must be a finite number, not {self.offset}")
        if self.shape is not None and (len(self.shape) != 2 or min(self.shape) < 1):
            raise ValueError(f"shape must be [height, width] of a bands x pixels matrix, not {self.shape}")
        self._check_references()
        if self.keep_bands is not None:
            expand_bands(self.keep_bands)
        for spec in (self.wavelength, self.wavelength_else):
            if _tells_axis(spec):
                check_wavelengths(expand_wavelength(spec, self.bands or 1), None, "wavelength")

    def _check_references(self) -> None:
        for kind, place in (("white", self.white), ("dark", self.dark)):
            if not (
                place is None or isinstance(place, str) or (isinstance(place, dict) and set(place) == {"variable"})
            ):
                raise ValueError(
                    f"{kind} must be a path, or {{variable: NAME}} for an array of the same file, not {place}"
                )
        if self.exposure is not None:
            times = [self.exposure.get(kind, 0.0) for kind in ("scene", "white")]
            if set(self.exposure) != {"scene", "white"} or not all(math.isfinite(time) and time > 0 for time in times):
                raise ValueError(f"exposure must be {{scene: T, white: T}}, positive times, not {self.exposure}")

    def bytes_config(self) -> dict[str, Any]:
        """The fields that change the bytes of an ingested cube."""
        return {key: value for key, value in asdict(self).items() if key not in WORDS}

    def split_of(self, relative: PurePath) -> str | None:
        """The published split of a scene, by its path below the root."""
        path = f"/{relative.as_posix()}"
        return next((name for name, globs in self.splits.items() if any(fnmatch(path, one) for one in globs)), None)

    @property
    def known_wavelength_nm(self) -> tuple[float, ...]:
        """What the row itself tells of its wavelengths; empty if only the files do."""
        for spec in (self.wavelength, self.wavelength_else):
            if _tells_axis(spec):
                return tuple(expand_wavelength(spec, self.bands or 1))
        return ()


def _tells_axis(spec: Any) -> bool:
    """Whether a wavelength specification holds the values itself, rather than where in the file they are."""
    return isinstance(spec, (list, dict)) and "variable" not in spec


def expand_wavelength(spec: Any, bands: int) -> list[float]:
    """The wavelengths of a list or an even {start, stop | step, count} specification, in nm.

    {start, step} without a count goes over as many `bands` as the cube has.
    """
    if isinstance(spec, dict):
        try:
            count = int(spec["count"]) if "count" in spec or "step" not in spec else bands
            start = float(spec["start"])
            step = float(spec["step"]) if "step" in spec else (float(spec["stop"]) - start) / max(count - 1, 1)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"wavelength {spec} must be a list, or have start, count and stop or step") from error
        return [start + index * step for index in range(count)]
    return [float(nm) for nm in spec]


def expand_bands(spec: list[str]) -> tuple[int, ...]:
    """Band numbers of a list like ["0-4", "7"], rising and without repeats.

    Raises:
        ValueError: it cannot be meant.
    """
    found: list[int] = []
    for part in spec:
        first, _, last = str(part).partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise ValueError(f'keep_bands {part!r} must be a number or "first-last"')
        found += range(int(first), int(last or first) + 1)
    if not found or sorted(set(found)) != found:
        raise ValueError(f"keep_bands {spec} must rise and name each band once")
    return tuple(found)


def check_wavelengths(wavelength_nm: list[float], bands: int | None, source: str) -> tuple[float, ...]:
    """Refuse wavelengths that are not one finite nanometre value per band within 300-3000.

    Raises:
        ValueError: with what to do about it.
    """
    if bands is not None and len(wavelength_nm) != bands:
        raise ValueError(f"{source} gives {len(wavelength_nm)} wavelengths but the cube has {bands} bands")
    wrong = [nm for nm in wavelength_nm if not (math.isfinite(nm) and 300 <= nm <= 3000)]
    if wrong or not wavelength_nm:
        um = bool(wrong) and all(0.3 <= nm <= 3.0 for nm in wrong)
        hint = "; a value like that looks like micrometres, multiply by 1000" if um else ""
        got = f"{wrong[0]:g}" if wrong else "none"
        raise ValueError(f"{source}: wavelengths must be nanometres within 300-3000, got {got}{hint}")
    return tuple(wavelength_nm)


def keys() -> list[str]:
    """Keys of the known rows."""
    return sorted(path.stem for path in ROWS.glob("*.yaml"))


def load_row(key_or_path: str) -> Row:
    """A known row by its key, or the user's own row from a YAML file.

    Raises:
        ConfigError: no such row, or a row with a wrong key or value.
    """
    path = ROWS / f"{key_or_path}.yaml"
    if not path.is_file():
        path = Path(key_or_path)
        if path.suffix not in (".yaml", ".yml"):
            near = difflib.get_close_matches(key_or_path, keys(), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"no dataset is named {key_or_path!r}; {hint}known rows: {', '.join(keys())}; "
                f"for your own camera set row=camera.yaml (docs in README)"
            )
    fields = load_yaml(path)
    unknown = [
        key for key, value in fields.items() if UNKNOWN in (value.values() if isinstance(value, dict) else [value])
    ]
    if unknown:
        raise ConfigError(f"{path}: {', '.join(unknown)} still to be filled in (it says {UNKNOWN})")
    return typed(Row, fields, str(path))
