"""A small corpus of several sensors: raw datasets in their true formats, and the truth beside them.

<out>/raw/<dataset>/...     what `ingest` reads
<out>/truth/<dataset>/<scene>_{instances,materials}.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sharding.catalog import keys, load_row
from sharding.generator.formats import WRITERS
from sharding.generator.materials import Library, make_library
from sharding.generator.scene import Sensor, make_scene
from sharding.records import Body, Record, Unit, commit
from sharding.scenes import find_scenes
from sharding.stage import RunOptions, StageResult, run_units

LOGIC = 1
FAKE_LOGIC = 2
# Places of the scene files inside a dataset, as the publishers have them.
PLACES = {
    "cave": "scene{i:03d}.mat",
    "libhsi": "reflectance_cubes/scene{i:03d}.hdr",
    "deephsnir": "Avocado/NIR/day_01/avocado_day_01_{i:03d}_front.hdr",
    "hotvis": "training/HSI-VIS/seq{i:03d}/img/0001.png",
    "hotnir": "training/HSI-NIR/seq{i:03d}/img/0001.png",
    "hyperspectralcityv2": "train/20210409_140341_{i:03d}.hsd",
}
# Wavelengths that only the files of a dataset tell.
AXES_NM = {
    "libhsi": tuple(np.linspace(397.32, 1003.58, 204).tolist()),
    "hyperspectralcityv2": tuple(np.linspace(449.0, 957.0, 128).tolist()),
    "umos": tuple(np.arange(400.0, 721.0, 10.0).tolist()),
}
FWHM_NM = {"cave": 10.0, "libhsi": 7.0, "deephsnir": 8.0, "hotvis": 12.0, "hotnir": 16.0, "hyperspectralcityv2": 6.0}


@dataclass
class CorpusConfig:
    """The generated corpus: scene side in pixels, scenes per training sensor, probe scenes per sensor.

    `fakes` writes a scene of some kilobytes of every catalog row in its publisher's layout beside them.
    """

    size: int = 96
    seed: int = 0
    train: list[str] | None = None
    train_scenes: int = 40
    probe: list[str] | None = None
    probe_scenes: int = 26
    fakes: bool = False


def sensor_of(key: str) -> Sensor:
    """The camera of a catalog row."""
    axis = AXES_NM[key] if key in AXES_NM else load_row(key).known_wavelength_nm
    return Sensor(tuple(axis), FWHM_NM[key])


def _write_dataset(root: Path, key: str, library: Library, size: int, count: int, seed: list[int]) -> Body:
    sensor = sensor_of(key)
    truth = []
    for index in range(count):
        path = root / "raw" / PLACES[key].format(i=index)
        path.parent.mkdir(parents=True, exist_ok=True)
        scene = make_scene(library, sensor, size, [*seed, index])
        WRITERS[key](path, scene.cube_HWB, sensor.wavelength_nm)
        truth.append(scene)
    (root / "truth").mkdir()
    for (name, _), scene in zip(find_scenes(load_row(key), root / "raw"), truth, strict=True):
        Image.fromarray(scene.instances).save(root / "truth" / f"{name}_instances.png")
        Image.fromarray(scene.materials).save(root / "truth" / f"{name}_materials.png")
    return Body({"scenes": count})


def _write_fake(root: Path, key: str) -> Body:
    from sharding.generator.fakes import write_beside, write_fake

    row = load_row(key)
    axis = row.known_wavelength_nm or AXES_NM[key]
    write_fake(key, root / "raw", list(axis))
    write_beside(key, root / "raw")
    return Body({"scenes": 1})


def corpus_units(workdir: Path, config: CorpusConfig) -> list[Unit]:
    """One unit per generated dataset; the probe datasets hold scenes that no training dataset has."""
    units = []
    folder = workdir / "corpus"
    sets = [(key, key, config.train_scenes, 0) for key in config.train or []]
    sets += [(f"{key}_probe", key, config.probe_scenes, 1) for key in config.probe or []]
    for name, key, count, part in sets:
        seed = [config.seed, sorted(PLACES).index(key), part]
        fields = {"logic": LOGIC, "key": key, "size": config.size, "scenes": count, "seed": config.seed}
        payload = (key, count, seed)
        units.append(Unit("corpus", name, folder / name, folder / f"{name}.json", "generated", fields, payload))
    for key in keys() if config.fakes else ():
        fields = {"logic": FAKE_LOGIC, "fake": key}
        units.append(Unit("corpus", key, folder / key, folder / f"{key}.json", "generated", fields, key))
    return units


def make_corpus(workdir: Path, config: CorpusConfig, workers: int, options: RunOptions) -> StageResult:
    """Generate every dataset of the corpus, one Ray task each."""
    from sharding.workers import map_tasks

    library = make_library(config.seed)
    size = config.size

    def make(unit: Unit) -> Record:
        if "fake" in unit.config:
            return commit(unit, lambda path: _write_fake(path, unit.payload))
        key, count, seed = unit.payload
        return commit(unit, lambda path: _write_dataset(path, key, library, size, count, seed))

    units = corpus_units(workdir, config)
    return run_units("corpus", units, workdir / "corpus", options, lambda todo: map_tasks(make, todo, workers))
