"""One run from nothing: short windows first, then the full 30 s, at a learning rate that falls to nothing.

What a step learns follows from its number alone, so that an interrupted run resumes from its last checkpoint as if
nothing had happened.
"""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo_model.losses import losses
from demo_model.network import Tensor, Whisper
from demo_model.utterances import Corpus
from demo_model.windows import Batch, Shape, Windows

STEPS = 2300
"""Steps of the run that made the model."""
PEAK = 4e-3
"""Learning rate after the first steps; it is held for a share HELD of the run, then falls to nothing."""
HELD, WARM = 0.44, 100
SHORT_ONLY, SOME_WHOLE = 0.25, 0.43
"""Shares of the run after which windows become longer."""
_DECAY = 0.02
_AVERAGE = 0.995
_SAVE_EVERY_S = 240.0
_QUEUED = 6

_SHORT = Shape(6.0, 24, 0.05)
_MIDDLE = Shape(14.0, 12, 0.25)
_WHOLE = Shape(30.0, 8, 0.3)


def shape(progress: float, r: random.Random) -> tuple[Shape, bool]:
    """Draw what a step learns from, at a share of the run; and whether the encoder is left as it is.

    What long windows teach is to follow a long text.  The encoder has less to learn there, and most of the cost is its.
    """
    k = r.random()
    if progress < SHORT_ONLY:
        return (_SHORT if k < 0.9 else _MIDDLE), False
    if progress < SOME_WHOLE:
        drawn = _SHORT if k < 0.4 else _MIDDLE if k < 0.8 else _WHOLE
    else:
        drawn = _SHORT if k < 0.2 else _MIDDLE if k < 0.5 else _WHOLE
    return drawn, drawn is _WHOLE and r.random() < 0.5


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step."""
    falling = (1 - step / steps) / (1 - HELD)
    return PEAK * min(1.0, (step + 1) / WARM, max(0.01, falling))


def optimizers(model: Any) -> list[Any]:
    """Return Muon for the matrices of the layers, AdamW for all else."""
    matrices: list[Tensor] = []
    embeddings: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            kind = matrices if p.dim() == 2 and ".layers." in name else embeddings if p.dim() > 1 else vectors
            kind.append(p)
    return [
        torch.optim.Muon(matrices, lr=PEAK, weight_decay=_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": embeddings, "weight_decay": _DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=PEAK,
            betas=(0.9, 0.98),
            fused=True,
        ),
    ]


def _tensors(batch: Batch, device: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in vars(batch).items()}


def _ahead(windows: Windows, first: int, steps: int, seed: int) -> Iterator[tuple[int, Shape, bool, Batch]]:
    """Yield the steps from ``first`` on; a thread composes them some steps ahead."""
    composed: queue.Queue[tuple[int, Shape, bool, Batch]] = queue.Queue(_QUEUED)

    def compose() -> None:
        for step in range(first, steps):
            drawn, frozen = shape(step / steps, random.Random(f"{seed} shape {step}"))
            composed.put((step, drawn, frozen, windows.batch(step, drawn)))

    threading.Thread(target=compose, daemon=True).start()
    for _ in range(first, steps):
        yield composed.get()


class Run:
    """The network, its optimizers and its moving average, and how far they are."""

    def __init__(self, corpus: Corpus, *, steps: int, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.steps, self.seed, self.device = steps, seed, device
        self.model = Whisper(corpus.vocabulary.first_timestamp, corpus.phonemes, corpus.pieces).to(device)
        self.optimizers = optimizers(self.model)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.done, self.heard_s, self._before_s = 0, 0.0, 0.0
        self._started = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds of training so far, those before a stop among them."""
        return self._before_s + time.monotonic() - self._started

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one of as many steps and the same seed."""
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.device)
        if (saved["steps"], saved["seed"]) != (self.steps, self.seed):
            return
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.average, self.done, self.heard_s = saved["average"], saved["done"], saved["heard_s"]
        self._before_s = saved["spent_s"]

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        partial = path.with_suffix(".partial")
        state = {
            "steps": self.steps,
            "seed": self.seed,
            "done": self.done,
            "spent_s": self.spent_s,
            "heard_s": self.heard_s,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(state, partial)
        partial.replace(path)

    def learn(self, drawn: Shape, batch: Batch, *, frozen: bool) -> dict[str, float]:
        """Do one step; returns the parts of its loss."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(self.done, self.steps)
            optimizer.zero_grad(set_to_none=True)
        helpers = 0.6 if self.done < 0.7 * self.steps else 0.3
        loss = losses(self.model, _tensors(batch, self.device), frozen=frozen, helpers=helpers)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        keep = min(_AVERAGE, 1 - 1 / (1 + self.done / 10))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        self.done += 1
        self.heard_s += drawn.seconds * drawn.windows
        return loss.parts


def train(folder: Path, *, steps: int, seed: int, device: str) -> None:
    """Train on the corpus in ``folder``; leaves ``model.pt`` and ``training.json`` there, and ``training.log``.

    Resumes from ``checkpoint.pt``, which is written every few minutes and when it is interrupted.
    """
    corpus = Corpus(folder)
    run = Run(corpus, steps=steps, seed=seed, device=device)
    checkpoint = folder / "checkpoint.pt"
    run.restore(checkpoint)
    saved_at = time.monotonic()
    with (folder / "training.log").open("a" if run.done else "w") as log:
        try:
            for step, drawn, frozen, batch in _ahead(Windows(corpus, seed), run.done, steps, seed):
                parts = run.learn(drawn, batch, frozen=frozen)
                if step % 20 == 0 or run.done == steps:
                    said = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
                    decoder = " (decoder)" if frozen else ""
                    line = f"{step} {run.spent_s:.0f} s, {drawn.seconds:g} s windows{decoder}: {said}"
                    print(line, flush=True)
                    log.write(line + "\n")
                    log.flush()
                if time.monotonic() - saved_at > _SAVE_EVERY_S:
                    run.save(checkpoint)
                    saved_at = time.monotonic()
        except KeyboardInterrupt:
            run.save(checkpoint)
            raise
    torch.save(run.average, folder / "model.pt")
    whisper = (run.model.encoder, run.model.decoder)
    facts = {
        "steps": steps,
        "seed": seed,
        "minutes": round(run.spent_s / 60, 1),
        "hours of windows": round(run.heard_s / 3600, 1),
        "parameters": sum(p.numel() for part in whisper for p in part.parameters()),
        "utterances": len(corpus.utterances),
        "hours of speech": round(float(np.sum([u.end_s for u in corpus.utterances])) / 3600, 1),
        "device": device,
        "torch": torch.__version__,
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)


def is_trained(folder: Path, *, steps: int, seed: int) -> bool:
    """Return whether a run of so many steps has ended in ``folder``."""
    facts = folder / "training.json"
    if not (facts.exists() and (folder / "model.pt").exists()):
        return False
    found = json.loads(facts.read_bytes())
    return (found["steps"], found["seed"]) == (steps, seed)
