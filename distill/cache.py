"""Teacher features on disk, keyed by sample *and view*: `teacher/<fingerprint>/<dataset>/<unit>.zarr`.

A unit of the cache is a shard. While a run fills it, each rank puts the features of the samples it meets into a
spool folder, one small file a sample, written atomically; when a shard's samples are all there, one writer packs
them into a Zarr array and commits it. A killed run loses at most the file it was writing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from distill.teacher import Teacher
from distill.views import VIEWS, View
from sharding.errors import InputError, writing
from sharding.manifest import SampleRef
from sharding.records import Body, Record, Unit, commit, delete, read_record, write_atomic

Array = NDArray[Any]


@dataclass(frozen=True)
class CacheUnit:
    """Where the features of one shard lie."""

    dataset: str
    name: str
    folder: Path
    shard_sha256: str

    @property
    def data(self) -> Path:
        """The Zarr array."""
        return self.folder / f"{self.name}.zarr"

    @property
    def record(self) -> Path:
        """Its record."""
        return self.folder / f"{self.name}.json"

    @property
    def spool(self) -> Path:
        """Features on their way."""
        return self.folder / f"{self.name}-{self.shard_sha256[:12]}.spool"


LARGEST = float(np.finfo(np.float16).max)


def pack_features(features_VDhw: Tensor, store: str) -> dict[str, Array]:
    """Features as they are stored: "features" fp16, or int8 with "scale" [V, D] float32."""
    values = features_VDhw.float().cpu().numpy()
    if store == "fp16":
        return {"features": np.clip(values, -LARGEST, LARGEST).astype(np.float16)}
    scale_VD = np.maximum(np.abs(values).max((2, 3)), 1e-20) / 127
    return {"features": np.rint(values / scale_VD[..., None, None]).astype(np.int8), "scale": scale_VD}


def unpack_features(parts: Mapping[str, Any], place: Any) -> Array:
    """Features [D, h, w] float32 at a place of what `pack_features` gave, in memory or in a store."""
    values = np.asarray(parts["features"][place], np.float32)
    return values * np.asarray(parts["scale"][place], np.float32)[:, None, None] if "scale" in parts else values


def commit_features(unit: Unit, keys: list[str], parts: Sequence[dict[str, Array]]) -> Record:
    """Write the features of the samples of one shard, as `pack_features` gives them."""

    def write(temporary: Path) -> Body:
        group = zarr.create_group(temporary)
        for name in parts[0]:
            stacked = np.stack([part[name] for part in parts])
            group.create_array(name, data=stacked, chunks=(1, 1, *stacked.shape[2:]), shards=stacked.shape)
        group.attrs.update({"keys": keys, "views": [view.name for view in VIEWS]})
        return Body({"samples": len(keys), "views": len(VIEWS)})

    return commit(unit, write)


class FeatureCache:
    """Read and fill the features of one teacher."""

    def __init__(self, root: Path, fingerprint: str, samples: Sequence[SampleRef]) -> None:
        self.root, self.fingerprint = root / fingerprint, fingerprint
        self.by_unit: dict[tuple[str, str], list[SampleRef]] = {}
        for ref in samples:
            self.by_unit.setdefault((ref.dataset, ref.shard.stem), []).append(ref)
        self._open: dict[tuple[str, str], tuple[dict[str, int], dict[str, Any]]] = {}
        self._units = {
            key: CacheUnit(*key, self.root / key[0], read_record(refs[0].shard.with_suffix(".json")).sha256)
            for key, refs in self.by_unit.items()
        }

    def unit(self, ref: SampleRef) -> CacheUnit:
        """The cache unit that a sample belongs to."""
        return self._units[ref.dataset, ref.shard.stem]

    def drop_stale(self) -> int:
        """Remove features of shards that were made anew since; called by one process, before any is read."""
        units = self._units.values()
        stale = [u for u in units if u.record.is_file() and read_record(u.record).inputs != u.shard_sha256]
        for unit in stale:
            delete(unit.record)
        return len(stale)

    def get(self, ref: SampleRef, view: View) -> Array | None:
        """Features [D, h, w] float32 of one view of one sample, or None if they are not there yet."""
        key = (ref.dataset, ref.shard.stem)
        if key not in self._open:
            unit = self.unit(ref)
            if not unit.record.is_file():
                return self._spooled(unit, ref, view)
            group = zarr.open_group(unit.data, mode="r")
            keys: Any = group.attrs["keys"]
            self._open[key] = ({name: i for i, name in enumerate(keys)}, dict(group.arrays()))
        places, parts = self._open[key]
        if ref.key not in places:
            raise InputError(f"{self.unit(ref).data} has no features of {ref.key}; delete it and run again")
        return unpack_features(parts, (places[ref.key], view.value))

    def _spooled(self, unit: CacheUnit, ref: SampleRef, view: View) -> Array | None:
        path = unit.spool / f"{ref.key}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as parts:
            return unpack_features(parts, view.value)

    def put(self, ref: SampleRef, parts: dict[str, Any]) -> None:
        """Spool the features of all views of one sample, as `pack_features` gives them."""
        buffer = BytesIO()
        np.savez(buffer, **parts)
        write_atomic(self.unit(ref).spool / f"{ref.key}.npz", buffer.getvalue())

    def pack(self) -> list[Record]:
        """Commit every shard whose samples are all spooled; called by one process at a time."""
        records = []
        for refs in self.by_unit.values():
            unit = self.unit(refs[0])
            paths = [unit.spool / f"{ref.key}.npz" for ref in refs]
            if not unit.record.is_file() and unit.spool.is_dir() and all(path.is_file() for path in paths):
                records.append(self._pack_one(unit, refs, paths))
            if unit.record.is_file() and unit.spool.is_dir():
                with writing(unit.spool):
                    shutil.rmtree(unit.spool)
        return records

    def _pack_one(self, unit: CacheUnit, refs: list[SampleRef], paths: list[Path]) -> Record:
        parts = [dict(np.load(path, allow_pickle=False)) for path in paths]
        return commit_features(self.stage_unit(unit), [ref.key for ref in refs], parts)

    def stage_unit(self, unit: CacheUnit, payload: Any = None) -> Unit:
        """A unit of the cache as the stage contract sees it."""
        fields = {"teacher": self.fingerprint}
        return Unit("cache-teacher", unit.name, unit.data, unit.record, unit.shard_sha256, fields, payload)

    def missing(self, refs: Iterable[SampleRef]) -> list[SampleRef]:
        """Samples whose features are not there yet."""
        return [ref for ref in refs if self.get(ref, View.IDENTITY) is None]


def features_for(
    teacher: Teacher, cache: FeatureCache | None, refs: Sequence[SampleRef], views: Sequence[Sequence[View]]
) -> Tensor:
    """Features [sum of views, D, h, w] of some views of some samples, in the given order.

    With a cache, those not there yet are computed for every view and spooled; without one all are computed.
    """
    todo = cache.missing(refs) if cache is not None else list(refs)
    fresh: dict[str, dict[str, Array]] = {}
    for ref in todo:
        # What was just computed goes through the store as well: the same numbers now and when it is read.
        fresh[ref.key] = pack_features(teacher.all_views(ref.picture("rgb")), teacher.config.store)
        if cache is not None:
            cache.put(ref, fresh[ref.key])
    rows = []
    for ref, wanted in zip(refs, views, strict=True):
        for view in wanted:
            if ref.key in fresh:
                rows.append(torch.from_numpy(unpack_features(fresh[ref.key], view.value)))
            else:
                stored = cache.get(ref, view) if cache is not None else None
                if stored is None:
                    raise InputError(f"{ref.key}: its teacher features vanished while training; run again")
                rows.append(torch.from_numpy(stored))
    return torch.stack(rows)
