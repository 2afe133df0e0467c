"""A Slurm for the tests below, and a finished run to compare with."""

import shutil
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster

SITE = Path(__file__).with_name("site.yaml")


@pytest.fixture(scope="session")
def cluster(need):
    """Two nodes."""
    need("slurm-wlm", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
    folder = Path(tempfile.mkdtemp(prefix="hv-slurm-"))
    one = Cluster(folder / "c")
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def labelled(cli, tiny, tmp_path_factory):
    """A work folder with shards, made without Slurm."""
    work = tmp_path_factory.mktemp("labelled") / "w"
    code, out, err = cli("run", tiny, f"workdir={work}", "until=pseudolabel")
    assert code == 0, out + err
    return work


@pytest.fixture
def work(labelled, tmp_path):
    """A copy of it."""
    shutil.copytree(labelled, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def site(tmp_path):
    """A site file that stands on that of the tests."""
    import yaml

    def write(**stages: dict) -> Path:
        told = yaml.safe_load(SITE.read_text())
        told |= stages.pop("top", {})
        for stage, options in stages.items():
            told["stages"][stage] = told["stages"].get(stage, {}) | options
        path = tmp_path / f"site-{len(list(tmp_path.glob('site-*')))}.yaml"
        path.write_text(yaml.safe_dump(told))
        return path

    return write
