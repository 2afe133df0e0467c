"""Processes beside each other take each unit once; a dead one's claim is taken over."""

import os
import subprocess
import sys

from sharding.claims import Claims
from sharding.records import Unit


def unit(folder, name="u"):
    return Unit("s", name, folder / f"{name}.tar", folder / f"{name}.json", "in", {})


def test_a_unit_is_taken_once_and_free_again_after_release(tmp_path):
    one, other = Claims(), Claims()
    assert one.take(unit(tmp_path)) and one.take(unit(tmp_path))
    assert not other.take(unit(tmp_path)) and other.take(unit(tmp_path, "v"))
    one.release(unit(tmp_path))
    assert other.take(unit(tmp_path))
    other.release_all()
    assert not list(tmp_path.iterdir())


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sharding.claims import Claims; from sharding.records import Unit\n"
        "d = Path(sys.argv[1]); assert Claims().take(Unit('s', 'u', d / 'u.tar', d / 'u.json', 'in', {}))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert Claims.path(unit(tmp_path)).is_file()
    assert Claims().take(unit(tmp_path))


def test_an_old_claim_of_another_host_is_taken_over_a_fresh_one_is_not(tmp_path):
    path = Claims.path(unit(tmp_path))
    path.write_text("elsewhere 1")
    assert not Claims().take(unit(tmp_path))
    os.utime(path, (1, 1))
    assert Claims().take(unit(tmp_path))
