"""A unit is either whole and recorded, or not there: after kills, on a full disk, without permission."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sharding.errors import OutputError
from sharding.records import Body, Unit, commit, delete, find_records, read_record, sweep
from sharding.verify import verify


def unit(folder: Path, name: str = "a", config=None) -> Unit:
    return Unit("test", name, folder / f"{name}.bin", folder / f"{name}.json", "in", config or {"x": 1})


def put(folder: Path, name: str = "a", content: bytes = b"hello"):
    return commit(unit(folder, name), lambda path: (path.write_bytes(content), Body({"n": 1}))[1])


def test_commit_leaves_data_and_its_record(tmp_path):
    record = put(tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"hello"
    assert read_record(tmp_path / "a.json") == record
    assert record.bytes == 5 and record.counts == {"n": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.json"]


def test_same_content_same_hash_and_a_folder_is_a_unit_too(tmp_path):
    def write(path):
        (path / "sub").mkdir(parents=True)
        (path / "sub" / "one").write_text("1")
        (path / "two").write_text("2")
        return Body()

    records = [commit(unit(tmp_path, name), write) for name in ("a", "b", "a")]
    assert len({record.sha256 for record in records}) == 1
    assert set(records[0].files) == {"sub/one", "two"}


def test_a_failing_writer_leaves_nothing(tmp_path):
    def write(path):
        path.write_bytes(b"half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        commit(unit(tmp_path), write)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_check_publishes_nothing(tmp_path):
    def check(path):
        raise RuntimeError("not as written")

    with pytest.raises(RuntimeError):
        commit(unit(tmp_path), lambda path: (path.write_bytes(b"x"), Body())[1], check)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["write", "check", "replace", "record"])
def test_kill_at_any_moment_leaves_no_false_claim(tmp_path, moment):
    """The process dies inside the protocol; a rerun sweeps its remains and makes the unit."""
    code = f"""
import os, signal
from pathlib import Path
import sharding.records as r
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
def write(path):
    path.write_bytes(b"hello")
    if {moment!r} == "write": die()
    return r.Body()
if {moment!r} == "replace": r._replace = die
if {moment!r} == "record": r.write_record = die
folder = Path({str(tmp_path)!r})
unit = r.Unit("test", "a", folder/"a.bin", folder/"a.json", "in", {{"x": 1}})
r.commit(unit, write, die if {moment!r} == "check" else None)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(find_records(tmp_path)) == []
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == (["a.bin"] if moment == "record" else [])
    assert put(tmp_path).sha256 == put(tmp_path, "b").sha256


def test_delete_removes_the_record_first(tmp_path, monkeypatch):
    put(tmp_path)
    monkeypatch.setattr("sharding.records._remove", lambda _: None)
    delete(tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists() and (tmp_path / "a.bin").exists()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "4 bytes, its record says 5"),
        (lambda p: p.write_bytes(b"jello"), "content differs"),
        (lambda p: p.unlink(), "missing"),
    ],
)
def test_verify_names_what_is_broken(tmp_path, harm, reason):
    put(tmp_path, "good")
    put(tmp_path, "bad")
    assert verify(tmp_path).bad == []
    harm(tmp_path / "bad.bin")
    (row,) = verify(tmp_path).bad
    assert row.item.endswith("bad.bin") and reason in row.reason


def test_a_foreign_json_is_no_record(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"schema": "something else"}))
    put(tmp_path)
    assert [path.name for path in find_records(tmp_path)] == ["a.json"]


def mounted(folder: Path, options: str):
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small tmpfs needs root")


def test_a_full_disk_is_one_sentence(tmp_path):
    mounted(tmp_path, "size=64k")
    try:
        with pytest.raises(OutputError, match=r"cannot write .*a\.bin: the disk is full; free some space"):
            put(tmp_path, content=b"x" * 200_000)
        assert list(tmp_path.iterdir()) == []
        put(tmp_path, content=b"small")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_no_permission_is_one_sentence(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    # Root ignores modes, but not an immutable folder.
    if os.geteuid() == 0 and subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode:
        pytest.skip("the file system has no immutable flag")
    try:
        with pytest.raises(OutputError, match="no permission to write there; change its owner or mode"):
            put(folder)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", str(folder)], check=True)
