"""MLflow's pages, as a browser shows them."""

import contextlib
import json
import signal
import socket
import subprocess
import urllib.request

import pytest

from pipeline.tracking import quiet_client
from tests.waiting import SAFETY_SECONDS, wait_for

pytestmark = pytest.mark.system
BROWSER = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=30000",
)  # fmt: skip


def write_run(run, steps):
    run.mkdir(parents=True)
    rows = ({"step": s, "loss": 2.0 - s / 10, "images_per_second": 5.0} for s in range(steps))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "spec.json").write_text(json.dumps({"seed": 0, "datasets": [], "pretrain": {"lr": 0.1}}))


def number_of(work, name):
    """MLflow's number of a run."""
    runs = quiet_client(f"sqlite:///{work / 'mlflow.db'}").search_runs(["1"])
    return next(run.info.run_id for run in runs if run.info.run_name == name)


def page(url, folder):
    """The text of a page when its scripts have run."""
    words = [*BROWSER, f"--user-data-dir={folder}", "--dump-dom", url]
    return subprocess.run(words, capture_output=True, text=True, timeout=SAFETY_SECONDS).stdout


def healthy(port):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60):
        return True
    return False


def test_the_pages_show_the_recipe_its_runs_and_their_metrics(need, cli, launch, tmp_path):
    need("chromium", "chromium")
    write_run(tmp_path / "runs" / "quokka", 30)
    words = ("demo", f"workdir={tmp_path}")
    code, _, err = cli("mlflow", *words)
    assert code == 2 and "run compare first" in err
    code, out, err = cli("compare", *words)
    assert code == 0, out + err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = launch("mlflow", *words, f"--port={port}", start_new_session=True)
    try:
        wait_for(lambda: healthy(port) or server.poll() is not None, "the server")
        base = f"http://127.0.0.1:{port}/#/experiments/1/runs"
        runs = page(base, tmp_path / "browser")
        assert tmp_path.name in runs and "matching runs" in runs, runs[-3000:]
        one = page(f"{base}/{number_of(tmp_path, 'quokka')}", tmp_path / "browser")
        assert "quokka" in one and "pretrain.lr" in one and "images_per_second" in one, one[-3000:]
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=SAFETY_SECONDS)
    assert server.returncode == 0
