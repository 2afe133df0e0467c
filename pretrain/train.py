"""The rank process: one loop over steps on a DeepSpeed engine. Started by `pretrain.launch` through torchrun.

stream -> loader (read ahead) -> teacher features -> engine -> metrics
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from distill.cache import FeatureCache, features_for
from distill.teacher import Teacher
from distill.views import View
from pretrain.checkpoint import Checkpoints
from pretrain.config import RunSpec
from pretrain.data import VIEWS_PER_IMAGE, Batch, StudentInput, TrainingViews
from pretrain.heldout import HeldOutScore, held_out, probe_held_out, probe_row
from pretrain.logs import DROPPED, SKIPPED, MetricsLog, append, read_all, shown
from pretrain.mask_scores import mask_row
from pretrain.objective import DTYPES, PretrainModel
from pretrain.optimizing import MeanWeights, deepspeed_engine, gradient_norm, whole_weights
from pretrain.pictures import Pictures
from pretrain.probe import ProbeScene, probe_stride
from pretrain.ranks import barrier, device, from_rank0, local_world, mean_over_ranks, rank, world
from pretrain.saving import restore, save
from pretrain.speed import Speedometer, device_flops, forward_flops, memory_bytes
from pretrain.student import build_student, untrained_student
from sharding.allocation import cores
from sharding.errors import HyperVisionError, InputError, Killed
from sharding.lifeline import StopFlag, die_with_parent
from sharding.loader import Loader
from sharding.manifest import Manifest, open_manifest
from sharding.order import keyed_rng
from sharding.records import write_atomic
from sharding.schema import typed
from sharding.stream import Stream

FIT_SAMPLES = 32


def start_ranks(seed: int, threads: int = 0) -> None:
    """Join the other ranks; no extension is compiled for it."""
    import deepspeed

    torch.set_num_threads(threads or max(1, cores() // local_world()))
    torch.manual_seed(seed)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", verbose=False)


class Trainer:
    """Everything one rank holds while it trains."""

    def __init__(self, spec: RunSpec, stop: StopFlag) -> None:
        self.spec, self.config, self.stop = spec, spec.pretrain, stop
        self.run = Path(spec.workdir) / "runs" / self.config.run
        self.manifest: Manifest = open_manifest(Path(spec.workdir) / "shards", spec.datasets)
        config = self.config
        self.stream = Stream(
            self.manifest, config.global_batch, spec.seed, config.mixing, rank(), world(), config.micro_batch
        )
        student = build_student(spec)
        false_colour = spec.teacher.without_visible == "false-colour"
        views = TrainingViews(config.sample, StudentInput.of(student), false_colour)
        self.waited, self.dropped, self.seen = 0.0, 0, Counter[str]()
        self.speed: Speedometer | None = None
        self.held_out: dict[str, list[ProbeScene]] | None = None
        self.untrained: dict[str, HeldOutScore] = {}
        self.passes = config.global_batch // world() // config.micro_batch
        self.loader = Loader(self.stream, views, config.loader, held=2)  # one is trained on, one is being read
        self.teacher, self.cache = self._teacher()
        width = 0 if self.teacher is None else int(self._features(self.manifest[:1]).shape[1])
        model = PretrainModel(student, width, config.objective, config.precision)
        if model.distiller is not None:
            first = [self.manifest[i] for i in self.stream.order.draws(0, FIT_SAMPLES).index]
            model.distiller.fit(self._features(first))
        self.mean = MeanWeights(student, self.config.ema) if self.config.ema else None
        self.engine, self.shares = deepspeed_engine(model, self.config)
        self.checkpoints = Checkpoints.of(spec, self.manifest)

    def _teacher(self) -> tuple[Teacher | None, FeatureCache | None]:
        if self.spec.teacher.mode == "none" or not self.config.objective.distil:
            return None, None
        teacher = Teacher(self.spec.teacher, str(device()))
        if self.spec.teacher.mode == "live":
            return teacher, None
        cache = FeatureCache(Path(self.spec.workdir) / "teacher", teacher.fingerprint, self.manifest)
        from_rank0(cache.drop_stale)
        if self.spec.teacher.mode == "cache" and cache.missing(self.manifest):
            raise InputError(
                f"{cache.root} lacks features of some samples; set teacher.mode=fill, or run cache-teacher"
            )
        return teacher, cache

    def _features(self, refs: Any) -> torch.Tensor:
        assert self.teacher is not None
        return features_for(self.teacher, self.cache, refs, [[View.IDENTITY]] * len(refs))

    def _next(self, source: Iterator[Batch]) -> tuple[Batch, torch.Tensor | None]:
        """The next micro-batch of this rank with its teacher features."""
        batch = next(source)
        if self.teacher is None:
            return batch, None
        refs = [self.manifest.ref(index) for index in batch.indices]
        views = [batch.views[i : i + VIEWS_PER_IMAGE] for i in range(0, len(batch.views), VIEWS_PER_IMAGE)]
        return batch, features_for(self.teacher, self.cache, refs, views)

    def batches(self, count: int) -> Iterator[tuple[Batch, torch.Tensor | None]]:
        """So many micro-batches, the next one made while one is trained on; `waited` adds up the time without."""
        source = iter(self.loader)
        with ThreadPoolExecutor(1) as ahead:
            upcoming: Future[Any] | None = None
            for left in reversed(range(count)):
                began = time.perf_counter()
                # The first here and not in the thread: the loader's workers end with the thread that began them.
                ready = upcoming.result() if upcoming else self._next(source)
                self.waited += time.perf_counter() - began
                upcoming = ahead.submit(self._next, source) if left else None
                yield ready

    def step(self, step: int, batches: Iterator[tuple[Batch, torch.Tensor | None]]) -> dict[str, float]:
        """One optimiser step; returns the mean of each term over all ranks, the share of ranks told to "stop", and
        whether the step was "dropped" by all of them, since a loss or the gradient is not finite.

        The numbers reach the host once, at the end of the step.
        """
        use_boxes = bool(keyed_rng("boxes", self.spec.seed, step).integers(2))
        for group, share in zip(self.engine.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = self.config.learning_rate(step) * share
        names: tuple[str, ...] = ()
        values: list[torch.Tensor] = []  # of each micro-batch; they stay on the device until the step is done
        keys: list[list[str]] = []
        for batch, features in islice(batches, self.passes):
            moved, seen = batch.to(device()), None if features is None else features.to(device())
            if self.speed is None:
                self.speed = self._measure(moved, seen, use_boxes)
            loss, terms = self.engine(moved, seen, use_boxes, *self._spark())
            names = ("loss", *terms)
            values.append(torch.stack([value.detach().double() for value in (loss, *terms.values())]))
            keys.append(batch.keys)
            self.engine.backward(loss)
            self.engine.step()
        values_PT = torch.stack(values)
        # The gradient of a loss that is not finite is not finite either, so no rank takes the step.
        finite_P1 = values_PT[:, :1].isfinite()
        own = torch.where(finite_P1, values_PT, 0.0).sum(0) / self.passes
        flags = torch.stack([own.new_tensor(float(self.stop.asked)), (~finite_P1).any().double()])
        *means, stop, wrong = mean_over_ranks(torch.cat([own, flags])).tolist()
        step_means = {**dict(zip(names, means, strict=True)), "stop": stop}
        not_finite = _not_finite(names, values_PT, keys) if wrong else {}
        step_means["dropped"] = self._dropped(step, not_finite, wrong > 0, [key for part in keys for key in part])
        return step_means

    def _spark(self) -> list[torch.Tensor]:
        """What ZeRO 3 needs beside a batch, see `PretrainModel.forward`."""
        return [torch.zeros((), device=device(), requires_grad=True)] if self.config.zero_stage == 3 else []

    def _dropped(self, step: int, not_finite: dict[str, list[str]], some_loss: bool, keys: list[str]) -> float:
        """1 if all ranks left the step out; lists what this rank had to do with it.

        `not_finite` are this rank's terms with the keys of their micro-batches, `some_loss` tells whether any rank has
        such a term. An overflow with finite losses is how fp16 finds its loss scale, so there it does not count.
        """
        applied = self.engine.was_step_applied()
        dropped = not applied and (some_loss or self.config.precision != "fp16")
        if dropped and (not_finite or not some_loss):
            concerned = {key for part in not_finite.values() for key in part} or set(keys)
            row = {"step": step, "keys": sorted(concerned), "terms": sorted(not_finite) or ["gradient"]}
            append(self.run / f"{DROPPED}-{rank()}.jsonl", [row])
        return float(dropped)

    def _row(self, step: int, terms: dict[str, float], seconds: float) -> dict[str, Any]:
        """The numbers of a step for the log; `samples` of each dataset since the first step."""
        config, norm = self.config, gradient_norm(self.engine)
        return {
            "step": step,
            **{name: round(value, 6) for name, value in terms.items()},
            "lr": config.learning_rate(step),
            "grad_norm": None if norm is None else round(norm, 5),
            **({"loss_scale": self.engine.optimizer.loss_scale} if config.precision == "fp16" else {}),
            "images_per_second": round(config.global_batch / seconds, 3),
            "data_wait_share": round(self.waited / seconds, 4),
            "mfu": None if self.speed is None else round(self.speed.mfu(seconds), 4),
            "memory_mb": round(memory_bytes(device()) / 1e6, 1),
            "seconds": round(seconds, 4),
            "samples": dict(self.seen),
        }

    def _measure(self, batch: Batch, features: torch.Tensor | None, use_boxes: bool) -> Speedometer:
        """Count the arithmetic of a micro-batch and measure what the device can do."""
        forward = forward_flops(self.engine, batch, features, use_boxes)
        return Speedometer(forward, self.passes, device_flops(device(), DTYPES[self.config.precision]))

    def _check_dropped(self, step: int, dropped: float) -> None:
        """Count the steps that were left out.

        Raises:
            HyperVisionError: more than `max_dropped` since the start (every rank raises).
        """
        self.dropped += round(dropped)
        if self.dropped > self.config.max_dropped:
            barrier()  # every rank has listed its own
            keys = [key for row in read_all(self.run, DROPPED) for key in row["keys"]]
            raise HyperVisionError(
                f"loss or gradient was not finite in {self.dropped} steps up to step {step}, pretrain.max_dropped is "
                f"{self.config.max_dropped}; they held {shown(keys)}: {self.run}/{DROPPED}-*.jsonl lists them"
            )

    def train(self) -> None:
        """Run to the last step from wherever the newest valid checkpoint stands."""
        start = restore(self.engine, self.checkpoints, self.config.zero_stage, self.mean)
        log = MetricsLog(self.run / "metrics.jsonl", start) if rank() == 0 else None
        self.loader.consumed = start * self.config.global_batch
        self.seen = Counter(self.stream.seen(self.loader.consumed))
        batches = self.batches((self.config.steps - start) * self.passes)
        for step in range(start, self.config.steps):
            began, self.waited = time.perf_counter(), 0.0
            terms = self.step(step, batches)
            if self.mean is not None and self.engine.was_step_applied():
                with whole_weights(self.engine):
                    self.mean.update(self.engine.module.student, step)
            stopping = terms.pop("stop") > 0  # one rank that was told is enough, and all agree
            self._check_dropped(step, terms["dropped"])
            self._tell_skipped()
            self.seen.update(self.stream.counts(step))
            row = self._row(step, terms, time.perf_counter() - began)
            row |= self._look(step + 1)
            if log is not None:
                log.write(row)
            if stopping or step + 1 == self.config.steps or (step + 1) % self.config.save_every == 0:
                # The cache first: after the last checkpoint nothing would come back to pack it.
                self._pack()
                save(self.engine, self.checkpoints, step + 1, self.config.keep, self.mean)
            if stopping:
                break
        barrier()

    def _look(self, step: int) -> dict[str, Any]:
        """Draw the picture and probe the student where it is time to; scores for the log."""
        config = self.config
        scores: dict[str, Any] = {}
        draw, probe = ((every > 0 and step % every == 0) for every in (config.pictures_every, config.probe_every))
        if not draw and not probe:
            return {}
        with whole_weights(self.engine):
            try:
                if rank() == 0 and draw:
                    pictures = Pictures(self.manifest, self.run / "pictures")
                    scores |= mask_row(pictures.draw(self.engine.module.student, step, config.objective.masks > 0))
                if rank() == 0 and probe:
                    scores |= self._probe()
            except Exception:  # a damaged tile or scene: who only looks on must not end the run
                print(f"after step {step}: no picture or no probe", traceback.format_exc(), file=sys.stderr)
        return scores

    def _probe(self) -> dict[str, Any]:
        """Scores on the held-out datasets for the log, beside those of an untrained net and what they rest on."""
        student, spec = self.engine.module.student, self.spec
        if self.held_out is None:
            windows = (student.size.image_size, probe_stride(student), self.config.probe_scenes)
            self.held_out = held_out(Path(spec.workdir), spec.held_out, *windows)
            self.untrained = probe_held_out(untrained_student(spec).to(device()), self.held_out)
        return probe_row(probe_held_out(student, self.held_out), self.untrained)

    def _tell_skipped(self) -> None:
        """Append what this rank could not read to its list."""
        append(self.run / f"{SKIPPED}-{rank()}.jsonl", [vars(row) for row in self.loader.take_skipped()])

    def _pack(self) -> None:
        """Commit the teacher features that are complete; one writer, when all ranks have spooled theirs."""
        barrier()
        if self.cache is not None and self.spec.teacher.mode == "fill":
            cache = self.cache
            from_rank0(lambda: len(cache.pack()))


def _not_finite(names: Sequence[str], values_PT: torch.Tensor, keys: list[list[str]]) -> dict[str, list[str]]:
    """The terms that are not finite in micro-batches whose loss is not, with the keys of those micro-batches."""
    found: dict[str, list[str]] = {}
    for row, batch_keys in zip(values_PT.isfinite().tolist(), keys, strict=True):
        for name in (name for name, finite in zip(names, row, strict=True) if not finite and not row[0]):
            found.setdefault(name, []).extend(batch_keys)
    return found


def _lost_peer(error: Exception) -> bool:
    """Whether another rank is gone: NCCL's errors have a class, Gloo's are told by their words."""
    words = ("closed by peer", "reset by peer", "connect failure", "timed out waiting", "broken pipe")
    told = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(word in told for word in words)


def main(path: str) -> int:
    """Entry of a rank process; an error is left in `error-<rank>.json` for the one who started it."""
    die_with_parent()
    stop = StopFlag()
    run = Path(path).parent
    spec = typed(RunSpec, json.loads(Path(path).read_text()), path)
    try:
        start_ranks(spec.seed, spec.pretrain.threads)
        trainer = Trainer(spec, stop)
        trainer.train()
        trainer.engine.destroy()
        torch.distributed.destroy_process_group()
        return 0
    except Exception as error:
        if _lost_peer(error):
            error = Killed(f"rank {rank()} lost another one: {' '.join(str(error).split())[:200]}")
        known = isinstance(error, HyperVisionError)
        sentence = str(error) if known else traceback.format_exc()
        kind = type(error).__name__ if known else ""
        row = {"kind": kind, "sentence": sentence, "exit_code": getattr(error, "exit_code", 1)}
        try:
            write_atomic(run / f"error-{rank()}.json", json.dumps(row).encode())
        except HyperVisionError:
            print(sentence, file=sys.stderr)
        return 1


if __name__ == "__main__":
    # Leave at once: an interpreter that shuts down while peers are gone can hang in their communicators.
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
