"""`pretrain`: start the rank processes through torchrun, show their progress, and bring their errors home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from pretrain.checkpoint import Checkpoints
from pretrain.config import RunSpec
from pretrain.logs import DROPPED, SKIPPED, read_all
from sharding import errors
from sharding.errors import ChangedError, HyperVisionError, InputError, writing
from sharding.lifeline import STOP_SIGNALS, die_with_parent
from sharding.manifest import Manifest, open_manifest
from sharding.records import delete, read_record, sweep, write_atomic
from sharding.stage import RunOptions, StageResult

POLL_SECONDS = 0.5
END_SECONDS = 60


def default_ranks() -> int:
    """One per GPU, or one."""
    import torch

    return max(1, torch.cuda.device_count())


def _environment(spec: RunSpec, cache: Path) -> dict[str, str]:
    """Caches of the engines go below the work folder, and no extension is built."""
    import torch

    extra = {
        "TORCH_EXTENSIONS_DIR": str(cache / "torch_extensions"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "OMP_NUM_THREADS": str(spec.pretrain.threads or max(1, (os.cpu_count() or 1) // spec.ranks)),
        "PYTHONUNBUFFERED": "1",
    }
    if not torch.cuda.is_available():
        extra["DS_ACCELERATOR"] = "cpu"
    return {**os.environ, **extra}


def _last_step(metrics: Path) -> int:
    """Steps that the run has logged."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            lines = [line for line in file.read().splitlines() if line.endswith(b"}")]
        return int(json.loads(lines[-1])["step"]) + 1 if lines else 0
    except (FileNotFoundError, ValueError):
        return 0


def _raise_rank_error(run: Path, log: Path, code: int) -> None:
    """Raise what a rank left, known errors as their own class."""
    # The first that failed: the others lost their peer.
    for path in sorted(run.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns):
        row = json.loads(path.read_text())
        if row["kind"]:
            kind = getattr(errors, row["kind"], HyperVisionError)
            raise kind(row["sentence"])
        last = row["sentence"].strip().splitlines()[-1]
        raise errors.StageFailed(f"a training rank failed ({last}); its traceback is in {path}, the log in {log}")
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.is_file() else []
    raise errors.StageFailed(f"training ended with code {code} ({' '.join(tail)[:300]}); see {log}")


def _prepare_child() -> None:
    """The launcher must outlive a signal that every process of a job gets: its ranks end by themselves."""
    die_with_parent()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[list[signal.Signals]]:
    """Hand SIGTERM and SIGUSR1 on to the ranks, which agree on a step, save and end; names those that came."""
    came: list[signal.Signals] = []

    def forward(number: int, _: object) -> None:
        came.append(signal.Signals(number))
        _tell_ranks(process, number)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_ranks(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the children of the launcher, each of which leads a session of its own."""
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in path.read_text().split():
                os.kill(int(child), number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run that is still there: it may save first."""
    if process.poll() is None:
        _tell_ranks(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        process.kill()  # and with it its ranks
        process.wait()


def _watch(
    process: subprocess.Popen[bytes], spec: RunSpec, metrics: Path, options: RunOptions, came: list[signal.Signals]
) -> int:
    """Wait for the run, telling its steps; a stop is said again until it is heard."""
    shown = -1
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        for number in came[:1]:
            _tell_ranks(process, number)
        step = _last_step(metrics)
        if options.progress and step != shown:
            options.progress("pretrain", step, spec.pretrain.steps, 0)
            shown = step
    return process.returncode


def pretrain(spec: RunSpec, options: RunOptions) -> StageResult:
    """Train, or continue, or say that all is done.

    Raises:
        ConfigError, InputError: what cannot run, before any process is started.
        ChangedError: checkpoints of another configuration or of other shards are there.
        StageFailed: a rank died.
    """
    started = time.perf_counter()
    spec.teacher.check()
    spec.pretrain.check(spec.ranks)
    manifest = open_manifest(Path(spec.workdir) / "shards", spec.datasets)
    checkpoints = Checkpoints.of(spec, manifest)
    run = checkpoints.folder.parent
    with writing(run):
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        sweep(run)
    why = checkpoints.why_changed()
    if why and not options.overwrite:
        raise ChangedError(f"pretrain refuses to continue {run}: {why}; add --overwrite, or set another pretrain.run=")
    if why:
        for _, path in checkpoints.records():
            delete(path)
    newest = checkpoints.newest_valid()
    begun = newest[0] if newest else 0
    if begun < spec.pretrain.steps:
        _start(spec, run, options)
    result = StageResult("pretrain", run, spec.pretrain.steps, spec.pretrain.steps - begun)
    result.bytes = sum(read_record(path).bytes for _, path in checkpoints.records())
    result.seconds = time.perf_counter() - started
    skipped = len(read_all(run, SKIPPED))
    if skipped:
        result.notes.append(f"{skipped} damaged samples were skipped: {run}/skipped-*.jsonl says which and why")
    dropped = len({row["step"] for row in read_all(run, DROPPED)})
    if dropped:
        result.notes.append(f"{dropped} steps had no finite loss or gradient: {run}/dropped-*.jsonl says which samples")
    if spec.teacher.mode != "none" and spec.pretrain.objective.distil:
        result.notes += spec.teacher.notes
        dark = datasets_without_visible(manifest)
        if dark:
            does = {"skip": "leaves them out", "false-colour": "learns from their false colours"}
            told = f"distillation {does[spec.teacher.without_visible]} (teacher.without_visible)"
            result.notes.append(f"{', '.join(dark)} see no visible light: {told}")
    return result


def datasets_without_visible(manifest: Manifest) -> list[str]:
    """Datasets whose pictures for the teacher are false colours."""
    found = []
    for name, ref in sorted(manifest.firsts.items()):
        with suppress(InputError):  # a damaged sample is told of where training meets it
            found += [] if ref.meta()["covers_visible"] else [name]
    return found


def _start(spec: RunSpec, run: Path, options: RunOptions) -> None:
    for old in run.glob("error-*.json"):
        old.unlink()
    path = run / "spec.json"
    write_atomic(path, json.dumps(asdict(spec), indent=1).encode())
    log = run / "train.log"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.ranks}",
        "--signals-to-handle", "SIGINT",
        "-m", "pretrain.train", str(path),
    ]  # fmt: skip
    environment = _environment(spec, Path(spec.workdir) / ".cache")
    with writing(log), log.open("ab") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_prepare_child,
            start_new_session=True,
        )
    with _forwarding(process) as came:
        try:
            code = _watch(process, spec, run / "metrics.jsonl", options, came)
        finally:
            _end(process)
    if code:
        _raise_rank_error(run, log, code)
    done = _last_step(run / "metrics.jsonl")
    if came and done < spec.pretrain.steps:
        raise errors.Stopped(
            f"training stopped on {came[0].name} after step {done} of {spec.pretrain.steps}, with a checkpoint in "
            f"{run}; run the same command again to continue"
        )
