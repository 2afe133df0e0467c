"""The same arrays held by other libraries, each read the way its manual says, on the same batches.

Each peer is run in this process and through its loader with workers, its bands chosen inside the worker, which is
the best one can do with it; for LitData and Streaming also the plain way, where whole samples reach the main process.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console import notes
from sharding.frames import Array, Frames
from sharding.manifest import SampleRef
from sharding.records import write_atomic

CHUNK_BYTES = 450 << 20
Peer = tuple[str, Callable[[], Iterator[int]], int]


def stored_cube(ref: SampleRef) -> Array:
    """All bands of a sample as they are stored, [C, H, W]."""
    frames = Frames.of(ref.meta())
    out = np.empty(frames.shape_CHW, frames.dtype)
    frames.stored_into(ref.lazily(frames), range(frames.stored), out)
    return out


def once(folder: Path, write: Callable[[Path], Any]) -> Path:
    """A folder that is written whole or not at all."""
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        notes.print(f"writing {folder.name}", style="dim")
        write(folder)
        write_atomic(folder / "complete", b"")
    return folder


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class _Endless:
    """Sizes of the batches of a torch loader, epoch after epoch; its workers stay. After a failure it begins anew."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.source: Iterator[Any] | None = None

    def __call__(self) -> Iterator[int]:
        return self

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        try:
            if self.source is None:  # not by its truth: an endless sampler has no length
                self.source = iter(self.loader)
            batch = next(self.source, None)
            if batch is None:
                self.source = iter(self.loader)
                batch = next(self.source)
            return len(batch["cube"])
        except Exception:
            self.source = None
            raise


def _npy(cube: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, cube)
    return buffer.getvalue()


def _npz(cube: Array) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, cube=cube)
    return buffer.getvalue()


def _zst(cube: Array) -> bytes:
    import zstandard

    return bytes(zstandard.ZstdCompressor(3).compress(_npy(cube)))


def _unzst(data: bytes) -> Array:
    import zstandard

    return np.asarray(np.load(io.BytesIO(zstandard.ZstdDecompressor().decompress(data))))


ENCODE = {"npy": _npy, "npy.zst": _zst, "npz": _npz}
DECODE: dict[str, Callable[[bytes], Array]] = {
    "npy": lambda data: np.asarray(np.load(io.BytesIO(data))),
    "npy.zst": _unzst,
    "npz": lambda data: np.asarray(np.load(io.BytesIO(data))["cube"]),
}


def _webdataset(refs: Sequence[SampleRef], folder: Path, bands: Array, batch: int, workers: int) -> Iterator[Peer]:
    import webdataset
    from torch.utils.data import DataLoader

    for kind in ENCODE:
        if kind == "npy.zst" and importlib.util.find_spec("zstandard") is None:
            continue

        def write(place: Path, kind: str = kind) -> None:
            with (place / "0.tar").open("wb") as file, webdataset.TarWriter(file, encoder=False) as sink:
                for ref in refs:
                    sink.write({"__key__": ref.key, f"cube.{kind}": ENCODE[kind](stored_cube(ref))})

        place = once(folder / f"webdataset-{kind}", write)

        def take(sample: dict[str, Any], kind: str = kind) -> dict[str, Array]:
            return {"cube": np.ascontiguousarray(DECODE[kind](sample[f"cube.{kind}"])[bands])}

        for count in dict.fromkeys((0, workers)):
            data = webdataset.WebDataset(str(place / "0.tar"), shardshuffle=False, empty_check=False).map(take)
            loader = DataLoader(data, batch_size=batch, num_workers=count, persistent_workers=count > 0)
            yield f"webdataset .{kind}, {count} workers", _Endless(loader), _size(place)


def _streaming(refs: Sequence[SampleRef], folder: Path, bands: Array, batch: int, workers: int) -> Iterator[Peer]:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    def write(place: Path, compression: str | None) -> None:
        kind = stored_cube(refs[0]).dtype.name
        with MDSWriter(
            out=str(place / "mds"), columns={"cube": f"ndarray:{kind}"}, compression=compression, size_limit=CHUNK_BYTES
        ) as sink:
            for ref in refs:
                sink.write({"cube": stored_cube(ref)})

    # Compressed shards are unpacked once to where the plain ones lie: only their size is of interest.
    packed = _size(once(folder / "streaming-zstd", partial(write, compression="zstd")))
    notes.print(f"MosaicML Streaming with zstd would hold {packed / len(refs) / 1e6:.1f} MB a sample", style="dim")
    place = once(folder / "streaming", partial(write, compression=None))

    class Chosen(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            return {"cube": np.ascontiguousarray(super().__getitem__(at)["cube"][bands])}

    for count in dict.fromkeys((0, workers)):
        for name, kind in (("", Chosen), (", whole samples", StreamingDataset)):
            if name and not count:
                continue
            clean_stale_shared_memory()
            data = kind(local=str(place / "mds"), shuffle=False, batch_size=batch)
            loader = DataLoader(data, batch_size=batch, num_workers=count, persistent_workers=count > 0)
            yield f"streaming{name}, {count} workers", _Endless(loader), _size(place)


def _litdata(refs: Sequence[SampleRef], folder: Path, bands: Array, batch: int, workers: int) -> Iterator[Peer]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    def write(place: Path, compression: str | None) -> None:
        sink = BinaryWriter(str(place / "lit"), chunk_bytes=CHUNK_BYTES, compression=compression)
        for index, ref in enumerate(refs):
            sink[index] = {"cube": stored_cube(ref)}
        sink.done()
        sink.merge(1)

    class Chosen(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            return {"cube": np.ascontiguousarray(super().__getitem__(at)["cube"][bands])}

    for compression in ("zstd", None):
        place = once(folder / f"litdata-{compression}", partial(write, compression=compression))
        held = "zstd" if compression else "raw"
        for count in dict.fromkeys((0, workers)):
            for name, kind in (("", Chosen), (", whole samples", StreamingDataset)):
                if name and (not count or compression):
                    continue
                loader = StreamingDataLoader(
                    kind(str(place / "lit")), batch_size=batch, num_workers=count, persistent_workers=count > 0
                )
                yield f"litdata {held}{name}, {count} workers", _Endless(loader), _size(place)


def peers(refs: Sequence[SampleRef], folder: Path, bands: Array, batch: int, workers: int) -> Iterator[Peer]:
    """(name, begin, bytes) of every way to read the same arrays that is installed here."""
    if "basis" in refs[0].meta():
        return
    yield from _webdataset(refs, folder, bands, batch, workers)
    for package, make in (("streaming", _streaming), ("litdata", _litdata)):
        if importlib.util.find_spec(package) is None:
            notes.print(f"{package} is not installed: `make setup-bench` has it", style="yellow")
        else:
            yield from make(refs, folder, bands, batch, workers)
