"""Fixtures for all tests: the shared facts and real scenes, the command line, a tiny recipe that runs everything."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import RUN_SECONDS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
TINY = ROOT / "tests" / "tiny.yaml"


def pytest_addoption(parser):
    parser.addoption(
        "--require-programs",
        action="store_true",
        help="tests fail where a program of the system that they need is missing",
    )


@pytest.fixture(scope="session")
def need(request):
    """Skip where programs of the system are missing, or fail if --require-programs was said."""

    def check(package: str, *programs: str) -> None:
        places = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
        lacking = [name for name in programs if shutil.which(name, path=places) is None]
        if lacking:
            told = f"{', '.join(lacking)} not found: apt-get install {package}"
            assert not request.config.getoption("--require-programs"), told
            pytest.skip(told)

    return check


@pytest.fixture(scope="session")
def shared():
    """A folder beside the checkout that holds facts or real scenes; skips where it is absent."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"{SHARED / name} is not beside this checkout")
        return SHARED / name

    return find


def _hear_the_interrupt() -> None:
    """Tests that a shell put into the background ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*words: object, **options: object) -> subprocess.Popen:
    """Start the command line as a user would, in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        **{"preexec_fn": _hear_the_interrupt, **options},
    )


@pytest.fixture(scope="session")
def cli():
    """Run the command line to its end: (exit code, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        process = start(*words)
        out, err = process.communicate(timeout=RUN_SECONDS)
        return process.returncode, out, err

    return run


@pytest.fixture(scope="session")
def launch():
    """Start the command line and leave it running."""
    return start


@pytest.fixture(scope="session")
def tiny():
    """The recipe of the tests."""
    return TINY
