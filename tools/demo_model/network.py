"""Whisper, with parameters named as in transformers, and the heads that help it learn and are dropped afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from demo_model.features import MELS
from demo_model.vocabulary import LONGEST, TIMESTAMPS

Tensor = Any  # torch.Tensor; torch is not installed where types are checked

WIDTH, FEED_FORWARD = 192, 768
ENCODER_LAYERS, ENCODER_HEADS = 4, 3
DECODER_LAYERS, DECODER_HEADS = 3, 4
POSITIONS = 1500

GUIDED_BACK = 0
"""The decoder layer whose first head looks at the token just read."""
GUIDED = (1, 2)
"""The decoder layers whose first two heads look at the token to be written: one anywhere in it, one all over it."""
ALIGNMENT_HEADS = tuple((layer, 1) for layer in GUIDED)

PLACE = tuple(i + half for half in (0, WIDTH // 2) for i in range(0, 70, 7))
"""Ten wavelengths of the position code, from 6 frames to more than the window: sines, then cosines.

They are made louder, and the encoder has to hand them on to its output; it would throw the position away otherwise, and
neither timestamps nor the order of words would be learnt.
"""

_FUSED = 400
"""Length from which the fused kernel of attention is the faster one on a CPU."""


def sinusoids(length: int, channels: int) -> Tensor:
    """Return Whisper's table of positions, [length, channels]."""
    step = math.log(10000) / (channels // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(channels // 2))[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def position_code() -> Tensor:
    """Return the encoder's table of positions."""
    table = sinusoids(POSITIONS, WIDTH)
    table[:, list(PLACE)] *= 2
    return table


class Attention(nn.Module):
    """Attention to itself or to a memory, [B, n, WIDTH]; with its weights [B, heads, n, m] where they are guided."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH)
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, WIDTH // self.heads).transpose(1, 2)

    def _projected(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scaled queries, and keys and values, of all heads."""
        q = self._split(self.q_proj(x)) * (WIDTH // self.heads) ** -0.5
        return q, self._split(self.k_proj(memory)), self._split(self.v_proj(memory))

    def _joined(self, out: Tensor, like: Tensor) -> Tensor:
        return self.out_proj(out.transpose(1, 2).reshape(like.shape))

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Return what was attended to in ``x`` itself."""
        q, k, v = self._projected(x, x)
        if x.shape[1] > _FUSED:
            return self._joined(F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0), x)
        scores = q @ k.transpose(2, 3)
        if causal:
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -1e4)
        return self._joined(torch.softmax(scores, dim=-1).to(v.dtype) @ v, x)

    def guided(self, x: Tensor, memory: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Return what was attended to in a memory, and the weights of the first ``heads`` heads as float32."""
        q, k, v = self._projected(x, memory)
        scores = q @ k.transpose(2, 3)
        weights = torch.softmax(scores[:, :heads].float(), dim=-1)
        rest = torch.softmax(scores[:, heads:], dim=-1)
        return self._joined(torch.cat([weights.to(v.dtype), rest.to(v.dtype)], dim=1) @ v, x), weights


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network; both after a norm, both added to what came in."""

    def __init__(self, heads: int = ENCODER_HEADS) -> None:
        super().__init__()
        self.self_attn = Attention(heads)
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, FEED_FORWARD), nn.Linear(FEED_FORWARD, WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, WIDTH]."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class DecoderLayer(EncoderLayer):
    """The same with attention to what the encoder heard in between."""

    def __init__(self) -> None:
        super().__init__(DECODER_HEADS)
        self.encoder_attn = Attention(DECODER_HEADS)
        self.encoder_attn_layer_norm = nn.LayerNorm(WIDTH)

    def decode(self, x: Tensor, memory: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Return [B * V, S, WIDTH], and the cross-attention of the guided heads [B, heads, V * S, T].

        The V sequences that belong to one memory lie next to each other in ``x``.
        """
        x = x + self.self_attn(self.self_attn_layer_norm(x), causal=True)
        together = self.encoder_attn_layer_norm(x).reshape(memory.shape[0], -1, WIDTH)
        seen, weights = self.encoder_attn.guided(together, memory, heads)
        x = x + seen.reshape(x.shape)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), weights


class Encoder(nn.Module):
    """Log-mel frames to what the decoder attends to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(POSITIONS, WIDTH)
        self.embed_positions.weight.data = position_code()
        self.embed_positions.weight.requires_grad = False
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(ENCODER_LAYERS))
        self.layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, mel: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory and what is half way to it, both [B, T/2, WIDTH].

        ``mel`` is [B, 80, T], ``offset`` [B] is where in the 1,500 positions each window begins.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.embed_positions(offset[:, None] + torch.arange(x.shape[1], device=x.device))
        half = x
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == ENCODER_LAYERS // 2 - 1:
                half = x
        return self.layer_norm(x), half


class Decoder(nn.Module):
    """Tokens and memory to logits.

    The embeddings of the timestamps are one affine map of the position code, not 1,501 free rows, each of which would be
    seen too rarely to be learnt.
    """

    def __init__(self, first_timestamp: int) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.randn(first_timestamp, WIDTH) * 0.04)
        self.time = nn.Linear(WIDTH, WIDTH)
        self.time.weight.data = 0.05 * torch.eye(WIDTH)
        self.register_buffer("moments", sinusoids(TIMESTAMPS, WIDTH), persistent=False)
        self.embed_positions = nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(DECODER_LAYERS))
        self.layer_norm = nn.LayerNorm(WIDTH)

    def embeddings(self) -> Tensor:
        """Return the embeddings of all tokens, for reading and for writing."""
        with torch.autocast(self.text.device.type, enabled=False):
            return torch.cat([self.text, self.time(self.moments)])

    def forward(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return what to write after each token as [B, V, S, WIDTH], the embeddings, and each layer's guided weights.

        ``tokens`` is [B, V, S]: V sequences for each window; logits are the product of the first two.
        """
        b, v, s = tokens.shape
        table = self.embeddings()
        x = F.embedding(tokens.view(b * v, s), table) + self.embed_positions.weight[:s]
        weights = []
        for i, layer in enumerate(self.layers):
            x, seen = layer.decode(x, memory, 1 if i == GUIDED_BACK else 2)
            weights.append(seen.view(b, -1, v, s, memory.shape[1]))
        return self.layer_norm(x).view(b, v, s, WIDTH), table, weights


@dataclass
class Heard:
    """What the helping heads read from the encoder: logits for each frame, [B, T/2, n], and the place [.., PLACE]."""

    phoneme: Tensor
    token: Tensor
    before: Tensor
    earlier: Tensor
    place: Tensor


class Whisper(nn.Module):
    """The network and its helpers, which ``conversion`` leaves out."""

    def __init__(self, first_timestamp: int, phonemes: int, pieces: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder(first_timestamp)
        self.half_norm, self.phoneme = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, phonemes)
        self.token, self.before, self.earlier = (nn.Linear(WIDTH, pieces) for _ in range(3))
        self.place = nn.Linear(WIDTH, len(PLACE))
        for name, p in self.named_parameters():
            if p.dim() == 2 and "embed" not in name and not name.startswith(("decoder.text", "decoder.time")):
                nn.init.normal_(p, std=WIDTH**-0.5 * (0.5 if "out_proj" in name or "fc2" in name else 0.9))
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        self.decoder.embed_positions.weight.data = 0.05 * sinusoids(LONGEST, WIDTH)

    def heard(self, memory: Tensor, half: Tensor) -> Heard:
        """Return what the helping heads make of the encoder's output."""
        phoneme = self.phoneme(self.half_norm(half))
        return Heard(
            phoneme, self.token(memory), self.before(memory), self.earlier(memory), self.place(memory)
        )
