"""What is minimised: the tokens' cross-entropy, and what the synthesizer's times can teach besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from demo_model import network, targets
from demo_model.network import Tensor

_GUIDE = 0.2
_PLACE = 2.0


@dataclass
class Losses:
    """The sum to minimise, its parts as numbers, and the share of text tokens and timestamps named right."""

    total: Tensor
    parts: dict[str, float]


def _guidance(weights: Tensor, where: Tensor, *, all_over: bool) -> Tensor:
    """Return how far a head looks past a span: [B, V, S, T] against [B, V, S, 2].

    It may look anywhere inside; or, ``all_over``, at each of the span's frames alike, so that the ends of the span can be
    read from it.
    """
    first, end = where[..., 0], where[..., 1]
    frames = weights.shape[-1]
    guided = (first >= 0) & (first < frames)
    rows, first, end = weights[guided], first[guided], end[guided].clamp(max=frames)
    if not len(rows):
        return weights.sum() * 0
    at = torch.arange(frames, device=rows.device)
    inside = (at >= first[:, None]) & (at < end[:, None])
    if all_over:
        return (
            -((rows + 1e-5).log() * inside).sum(-1).div(end - first).add((end - first).float().log()).mean()
        )
    return -((rows * inside).sum(-1) + 1e-5).log().mean()


def losses(model: Any, batch: dict[str, Tensor], *, frozen: bool, helpers: float) -> Losses:
    """Return the losses of a batch.

    ``frozen`` leaves the encoder as it is, which is cheaper where only the decoder has something to learn; ``helpers`` is
    the weight of what the encoder's helping heads are to name.
    """
    device = batch["mel"].device.type
    with torch.autocast(device, torch.bfloat16):
        with torch.set_grad_enabled(not frozen):
            memory, half = model.encoder(batch["mel"], batch["offset"])
        written, table, weights = model.decoder(batch["tokens"], memory)
        learnt = batch["labels"] >= 0
        logits = F.linear(written[learnt], table)
        heard = None if frozen else model.heard(memory, half)
    labels = batch["labels"][learnt]
    logits = logits.float()
    tokens = F.cross_entropy(logits, labels)
    where = batch["where"]
    back = F.pad(where, (0, 0, 1, 0), value=-1)[..., :-1, :]  # where the token just read was heard
    guides = [_guidance(weights[network.GUIDED_BACK][:, 0], back, all_over=False)]
    for layer in network.GUIDED:
        guides += [_guidance(weights[layer][:, head], where, all_over=head == 1) for head in (0, 1)]
    guide = torch.stack(guides)
    total = tokens + _GUIDE * guide.sum()
    parts = {"tokens": tokens.item(), "guide": guide[1::2].mean().item(), "back": guide[0].item()}
    if heard is not None:
        named = {
            name: F.cross_entropy(
                getattr(heard, name).float().flatten(0, 1),
                batch[name].flatten(),
                ignore_index=targets.IGNORED,
            )
            for name in ("phoneme", "token", "before", "earlier")
        }
        at = batch["offset"][:, None] + torch.arange(memory.shape[1], device=memory.device)
        place = F.mse_loss(
            heard.place.float(), model.encoder.embed_positions.weight[:, list(network.PLACE)][at]
        )
        near = named["phoneme"] + named["token"]
        total = total + helpers * (near + 0.5 * (named["before"] + named["earlier"])) + _PLACE * place
        parts |= {"place": place.item()} | {name: loss.item() for name, loss in named.items()}
    with torch.no_grad():
        right = (logits.argmax(-1) == labels).float()
        first_timestamp = model.decoder.text.shape[0]
        parts["text right"] = right[labels < first_timestamp].mean().item()
        parts["times right"] = right[labels >= first_timestamp].mean().item()
    return Losses(total, parts)
