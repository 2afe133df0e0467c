"""What the tests of readers and cubes share."""

import pytest

from sharding.cube_writer import write_cube
from sharding.readers import open_raw
from sharding.store import open_cube


@pytest.fixture
def ingested(tmp_path_factory):
    """A raw file by its row as an ingested cube."""

    def make(row, path):
        folder = tmp_path_factory.mktemp("cube") / "one"
        write_cube(folder, row, "one", open_raw(row, path))
        return open_cube(folder)

    return make
