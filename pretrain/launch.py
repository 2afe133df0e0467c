"""`pretrain`: start the rank processes, show their progress, and bring their errors home.

One node: torchrun. A Slurm job of several nodes: `srun` starts `pretrain.node` once on each, which starts torchrun
there. Ranks meet at a port of this node, which is the first of the job.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from pretrain.checkpoint import Checkpoints
from pretrain.config import RunSpec
from pretrain.logs import DROPPED, SKIPPED, read_all, tail
from sharding import errors
from sharding.allocation import cores, free_port, nodes, one_task_a_node
from sharding.errors import ChangedError, ConfigError, HyperVisionError, InputError, writing
from sharding.lifeline import STOP_SIGNALS, die_with_parent
from sharding.manifest import Manifest, open_manifest
from sharding.records import delete, read_record, sweep, write_atomic
from sharding.stage import RunOptions, StageResult

Process = subprocess.Popen[bytes]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--signals-to-handle", "SIGINT")
POLL_SECONDS = 0.5
END_SECONDS = 60


def default_ranks() -> int:
    """One per GPU of every node, or one per node."""
    import torch

    return max(1, torch.cuda.device_count()) * nodes()


def _environment(spec: RunSpec, cache: Path) -> dict[str, str]:
    """Caches of the engines go below the work folder, and no extension is built."""
    import torch

    extra = {
        "TORCH_EXTENSIONS_DIR": str(cache / "torch_extensions"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "OMP_NUM_THREADS": str(spec.pretrain.threads or max(1, cores() * nodes() // spec.ranks)),
        "PYTHONUNBUFFERED": "1",
    }
    if not torch.cuda.is_available():
        extra["DS_ACCELERATOR"] = "cpu"
    return {**os.environ, **extra}


def _last_step(run: Path) -> int:
    """Steps that the run has logged."""
    last = tail(run, 1)
    return int(last[-1]["step"]) + 1 if last else 0


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
    said = log.read_text(errors="replace").strip().splitlines()[-1:] if log.is_file() else []
    raise errors.Killed(
        f"training ended with code {code} and no rank said why, so one was killed ({' '.join(said)[:300]}); see {log}, "
        "then run the same command again to continue"
    )


def _prepare_child() -> None:
    """The launcher must outlive a signal that every process of a job gets: its ranks end by themselves."""
    die_with_parent()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def start_launcher(command: Sequence[str], environment: Mapping[str, str], sink: IO[bytes] | None) -> Process:
    """Start torchrun (or `srun`, which hands signals on by itself)."""
    return subprocess.Popen(
        command, stdout=sink, stderr=subprocess.STDOUT if sink else None, env=environment,
        preexec_fn=die_with_parent if command[0] == "srun" else _prepare_child, start_new_session=True,
    )  # fmt: skip


@contextmanager
def forwarding(process: Process) -> Iterator[list[signal.Signals]]:
    """Hand SIGTERM and SIGUSR1 on to the ranks, which agree on a step, save and end; names those that came."""
    came: list[signal.Signals] = []

    def forward(number: int, _: object) -> None:
        came.append(signal.Signals(number))
        tell_ranks(process, number)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell_ranks(process: Process, number: int) -> None:
    """Send a stop signal to the children of the launcher, each of which leads a session of its own.

    `srun` hands SIGUSR1 on to every node; SIGTERM would end it.
    """
    if isinstance(process.args, list) and process.args[0] == "srun":
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGUSR1)
        return
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in path.read_text().split():
                os.kill(int(child), number)


def end_ranks(process: Process) -> None:
    """End a run that is still there: it may save first."""
    if process.poll() is None:
        tell_ranks(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        process.kill()  # and with it its ranks
        process.wait()


def _watch(process: Process, spec: RunSpec, run: Path, options: RunOptions, came: list[signal.Signals]) -> int:
    """Wait for the run, telling its steps; a stop is said again until it is heard."""
    shown = -1
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        for number in came[:1]:
            tell_ranks(process, number)
        step = _last_step(run)
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
    if spec.ranks % nodes():
        raise ConfigError(f"pretrain.ranks {spec.ranks} do not spread evenly over the {nodes()} nodes of this job")
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
    result = StageResult("pretrain", run, spec.pretrain.steps, spec.pretrain.steps - begun)
    if begun < spec.pretrain.steps:
        result.notes += _decoder_notes(spec)
        _start(spec, run, options)
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


def _decoder_notes(spec: RunSpec) -> list[str]:
    """Try the decoder's weights before any process is started; what became of their tensors."""
    if spec.model.decoder is None:
        return []
    from hypervision import create_model
    from pretrain.student import load_decoder

    path = Path(spec.model.decoder)
    report = load_decoder(create_model(spec.model.name, **spec.model.options), path)
    return [f"prompt encoder and mask decoder start from {path}: {report.summary()}"]


def datasets_without_visible(manifest: Manifest) -> list[str]:
    """Datasets whose pictures for the teacher are false colours."""
    found = []
    for name, ref in sorted(manifest.firsts.items()):
        with suppress(InputError):  # a damaged sample is told of where training meets it
            found += [] if ref.meta()["covers_visible"] else [name]
    return found


def _across_nodes(spec_path: Path) -> list[str]:
    """The command that starts ranks on all nodes of the job; no ssh is needed."""
    srun = one_task_a_node(nodes(), "--kill-on-bad-exit=1")
    return [*srun, sys.executable, "-m", "pretrain.node", str(spec_path), str(free_port())]


def _start(spec: RunSpec, run: Path, options: RunOptions) -> None:
    for old in run.glob("error-*.json"):
        old.unlink()
    path = run / "spec.json"
    write_atomic(path, json.dumps(asdict(spec), indent=1).encode())
    log = run / "train.log"
    here = [*TORCHRUN, "--standalone", f"--nproc-per-node={spec.ranks}", "-m", "pretrain.train", str(path)]
    command = _across_nodes(path) if nodes() > 1 else here
    with writing(log), log.open("ab") as sink:
        process = start_launcher(command, _environment(spec, Path(spec.workdir) / ".cache"), sink)
    with forwarding(process) as came:
        try:
            code = _watch(process, spec, run, options, came)
        finally:
            end_ranks(process)
    if code:
        _raise_rank_error(run, log, code)
    done = _last_step(run)
    if came and done < spec.pretrain.steps:
        raise errors.Stopped(
            f"training stopped on {came[0].name} after step {done} of {spec.pretrain.steps}, with a checkpoint in "
            f"{run}; run the same command again to continue"
        )
