"""Label maps of the user's own, to score against: `truth:` of a dataset -> `cubes/<dataset>.truth/<scene>.npy`.

Each is a unit of its own beside the cube: one that is added or mended later makes no cube anew. Its size is compared
with that of its scene before anything is scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sharding.errors import InputError
from sharding.inputs import change_of, source_row
from sharding.label_maps import read_label_map
from sharding.readers import reading
from sharding.records import Body, Failure, Record, Unit, commit, commit_failure, fingerprint, read_record
from sharding.store import truth_files

LOGIC = 1
STAGE = "truth"


def truth_place(place: str, scene: str, root: Path, path: Path) -> Path:
    """The file that holds the truth of a scene: {scene} is its id, {stem} and {folder} are of its file.

    A path that is not absolute is below the dataset's root if there is such a file, else below the working folder.
    """
    folder = path.parent.relative_to(root).as_posix()
    for name, word in {"{scene}": scene, "{stem}": path.stem, "{folder}": folder}.items():
        place = place.replace(name, word)
    given = Path(place).expanduser()
    return root / given if (root / given).is_file() else given


def truth_unit(cube: Path, cube_record: Record, source: Path, variable: str) -> Unit:
    """The unit of one truth, whose file is there."""
    data, record_path = truth_files(cube)
    config = {"logic": LOGIC, "variable": variable}
    side = (cube_record.counts["height"], cube_record.counts["width"])
    name = cube_record.unit
    if not record_path.is_file():
        return Unit(STAGE, name, data, record_path, "", config, (source, side))
    record = read_record(record_path)
    change = change_of(str(source), source, record.extra.get("source"))
    if record.done and record.extra.get("side") != list(side):
        change = change or f"its scene is {side[0]} x {side[1]} now"
    inputs = fingerprint([record.inputs, change]) if change else record.inputs
    return Unit(STAGE, name, data, record_path, inputs, config, (source, side), change)


def store_truth(unit: Unit) -> Record:
    """Read one label map and put it beside its cube; one that does not fit its scene becomes a failure row."""
    source, side = unit.payload
    row = source_row(str(source), source)

    def write(temporary: Path) -> Body:
        with reading(source, "label map"):
            ids_HW = read_label_map(source, unit.config["variable"])
        if ids_HW.shape != side:
            turned = "; it seems to be turned" if ids_HW.shape == side[::-1] else ""
            own, wanted = (f"{height} x {width}" for height, width in (ids_HW.shape, side))
            raise InputError(f"{source} is {own} pixels, its scene {unit.id} is {wanted}{turned}")
        with temporary.open("wb") as file:
            np.save(file, ids_HW, allow_pickle=False)
        counts = {"classes": len(np.unique(ids_HW[ids_HW != 0])), "labelled": int((ids_HW != 0).sum())}
        return Body(counts, extra={"source": row, "side": list(side)}, inputs=fingerprint(row["sha256"]))

    try:
        return commit(unit, write)
    except InputError as error:
        return commit_failure(unit, Failure.of(str(source), error), {"source": row})


def missing_note(dataset: str, missing: Mapping[str, Path], scenes: int) -> list[str]:
    """A sentence if some scenes have no truth."""
    if not missing:
        return []
    scene, place = next(iter(missing.items()))
    return [f"{len(missing)} of {scenes} scenes of {dataset} have no truth, e.g. {scene}: nothing at {place}"]
