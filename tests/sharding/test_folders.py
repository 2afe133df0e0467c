"""Folders as people have them: links are followed, circles end, what systems leave behind is no data."""

import json
import shutil

import pytest

from sharding.errors import InputError
from sharding.folders import find_files, has_litter
from sharding.manifest import open_manifest
from sharding.records import Body, Unit, commit, find_records, read_record
from sharding.verify import verify


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def found(root, pattern="**/*.npy"):
    return [path.relative_to(root).as_posix() for path in find_files(root, pattern)]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.npy", ["a.npy"]),
        ("**/*.npy", ["a.npy", "x/b.npy", "x/y/c.npy"]),
        ("x/*.npy", ["x/b.npy"]),
        ("*/*.npy", ["x/b.npy"]),
        ("**/y/**/*.*", ["x/y/c.npy", "x/y/d.mat"]),
        ("**/[ab].n?y", ["a.npy", "x/b.npy"]),
        ("**/*.NPY", []),
        ("x/**/*", ["x/b.npy", "x/y/c.npy", "x/y/d.mat"]),
    ],
)
def test_a_pattern_means_what_pathlib_means(tmp_path, pattern, wanted):
    put(tmp_path, "a.npy", "x/b.npy", "x/y/c.npy", "x/y/d.mat")
    assert found(tmp_path, pattern) == wanted
    assert wanted == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file())


@pytest.mark.parametrize("pattern", ["/data/*.npy", "../*.npy"])
def test_a_pattern_that_leaves_the_folder_is_refused(tmp_path, pattern):
    with pytest.raises(InputError, match="must be a pattern below the root"):
        find_files(tmp_path, pattern)


def test_what_systems_leave_behind_is_no_scene(tmp_path):
    put(tmp_path, "a.npy", "._a.npy", "__MACOSX/x/a.npy", ".ipynb_checkpoints/a-checkpoint.npy", "@eaDir/a.npy")
    put(tmp_path, ".hidden/b.npy", "x/._y/c.npy", "x/Thumbs.db")
    assert found(tmp_path) == [".hidden/b.npy", "a.npy"] and found(tmp_path / "x", "**/*") == []


def test_linked_folders_are_followed_once_and_circles_end(tmp_path):
    put(tmp_path, "elsewhere/day/b.npy", "root/a.npy", "root/pool/p.npy")
    root = tmp_path / "root"
    (root / "disk2").symlink_to(tmp_path / "elsewhere")
    assert found(root) == ["a.npy", "disk2/day/b.npy", "pool/p.npy"]
    (root / "loop").symlink_to(root)
    (root / "pool" / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(root / "disk2")
    (root / "again").symlink_to(root / "pool")
    assert found(root) == ["a.npy", "disk2/day/b.npy", "pool/p.npy"]
    assert found(root, "again/*.npy") == ["again/p.npy"]


def test_a_link_to_nowhere_is_not_passed_over(tmp_path):
    (tmp_path / "gone.npy").symlink_to(tmp_path / "nothing.npy")
    assert found(tmp_path) == ["gone.npy"]


def committed(folder, stage, name, record):
    unit = Unit(stage, name, folder / "data" / name.replace("/", "-"), record, "in", {})
    return commit(unit, lambda path: (path.mkdir(), (path / "x").write_text(name), Body(extra={"index": {}}))[2])


def test_copies_that_editors_and_systems_keep_are_no_records(tmp_path):
    record = tmp_path / "cubes" / "cam.records" / "a.json"
    committed(tmp_path, "ingest", "cam/a", record)
    aside = record.parent / ".ipynb_checkpoints" / "a-checkpoint.json"
    aside.parent.mkdir()
    shutil.copy(record, aside)
    shutil.copy(record, record.with_name("._a.json"))
    (tmp_path / "data" / "cam-a" / ".DS_Store").write_text("x")
    assert list(find_records(tmp_path)) == [record]
    assert verify(tmp_path).bad == []


def test_a_copied_record_is_noticed(tmp_path):
    record = tmp_path / "cubes" / "cam.records" / "a.json"
    committed(tmp_path, "ingest", "cam/a", record)
    other = tmp_path / "cubes" / "other.records" / "a.json"
    other.parent.mkdir()
    for copy in (record.with_name("b.json"), other):
        shutil.copy(record, copy)
        with pytest.raises(InputError, match="is a copy of the record of cam/a"):
            read_record(copy)
        assert [failure.item for failure in verify(copy.parent).bad] == [str(copy)]
        copy.unlink()
    assert read_record(record).unit == "cam/a"


def test_a_copied_shard_record_and_folders_of_systems_are_noticed_by_training(tmp_path):
    shards = tmp_path / "shards"
    record = shards / "cam" / "cam-00000.json"
    committed(tmp_path, "pseudolabel", "cam-00000", record)
    fields = json.loads(record.read_text())
    fields["extra"]["index"] = {"k": {"json": [0, 1]}}
    record.write_text(json.dumps(fields, indent=1))
    (shards / "__MACOSX").mkdir()
    (shards / "cam" / "._cam-00000.json").write_bytes(record.read_bytes())
    assert len(open_manifest(shards)) == 1
    shutil.copytree(shards / "cam", shards / "copy")
    with pytest.raises(InputError, match="is a copy of the record of cam-00000"):
        open_manifest(shards)


def test_litter_is_told_by_any_part_of_a_path(tmp_path):
    inside = (tmp_path / "__MACOSX" / "a").relative_to(tmp_path)
    assert has_litter(inside) and not has_litter((tmp_path / "a" / "b").relative_to(tmp_path))
