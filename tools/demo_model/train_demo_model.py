"""Train the demo model: corpus -> tokenizer -> training -> CTranslate2.

    python train_demo_model.py all --work WORK --out OUT      # everything
    python train_demo_model.py cache|train|export ...         # one step

It needs libespeak-ng, torch, transformers, ctranslate2, tokenizers, scipy and
faster-whisper, two CPU cores and about 4 GB of memory; no network and no GPU.

The network is an ordinary Whisper, only small.  What makes it learn quickly is
that the synthesizer tells us when each word and phoneme is spoken, which is
used three times during training and not at all afterwards:
  * throw-away linear heads on the encoder name the phoneme and the word piece
    heard in each 20 ms frame, and the place of the frame in the window;
  * two cross-attention heads of the last decoder layer are told which frames
    the next word piece lies in (they become the `alignment_heads`);
  * segment timestamps are the true ones.

The shipped model came from several legs of training (`--resume`), between
which this recipe was improved; see MODEL.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

import demo_corpus as C

Array = npt.NDArray[Any]
Guide = tuple[int, int]
Tensor = Any  # torch.Tensor, but torch is optional where types are checked

SEED = 20240607
LANGS = ["en", "zh"]
D, ENC_LAYERS, DEC_LAYERS, FFN = 160, 4, 2, 640
ENC_HEADS, DEC_HEADS = 4, 4
MAX_TARGET = 448
N_TS = 1501
Window = tuple[Array, list[int], list[int], list[Guide], Array, Array]
"""Mels, tokens, labels, where each token is heard, word pieces and phonemes per frame."""
ALIGN_HEADS = [[DEC_LAYERS - 1, 0], [DEC_LAYERS - 1, 1]]
PASS = 24  # word pieces after which a pass with timestamps ends
# Written to preprocessor_config.json: faster-whisper then takes (and the batched
# pipeline cuts) pieces of this many seconds, still padded to the 30 s window.
CHUNK = 8
FLOOR = -10.0  # log10 of the smallest mel power


# --------------------------------------------------------------------------
# Tokenizer
# --------------------------------------------------------------------------
SPECIALS = (
    ["<|endoftext|>", "<|startoftranscript|>"]
    + [f"<|{l}|>" for l in LANGS]
    + [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
)


def build_tokenizer(path: str, merges: int = 900) -> Any:
    """Byte-level BPE learned word by word from the grammar, plus the special tokens.

    The last ordinary token is the empty string: CTranslate2 takes a Whisper
    vocabulary that has it for a multilingual one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    r = random.Random(SEED)
    count: dict[str, int] = {}
    for i in range(30000):
        text = C.en_sentence(r) if i % 3 else C.en_random(r)
        for w in text.rstrip(".?").split():
            count[" " + w] = count.get(" " + w, 0) + 1
    for w in C.ZH_WORDS:
        count[w] = 40
    for ch in C.zh_alphabet():  # every character one token
        count[ch] = 3000
    # " -" and " '" must be one token each (faster-whisper suppresses their
    # first token, which must not be the bare space), likewise " " + a musical note.
    for w in (" -", " '", " ♪", ".", "?", "。", "？", ","):
        count[w] = 5000
    words = [w for w, n in sorted(count.items()) for _ in range(n if n < 400 else 400 if n < 3000 else 3000)]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tok.train_from_iterator(words, trainer)
    data = json.loads(tok.to_str())
    vocab = data["model"]["vocab"]
    vocab[""] = len(vocab)
    tok = Tokenizer.from_str(json.dumps(data))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    tok.save(path)
    return tok


class Ids:
    """Ids of the special tokens."""

    def __init__(self, tok: Any) -> None:
        get = tok.token_to_id
        self.eot, self.sot = get("<|endoftext|>"), get("<|startoftranscript|>")
        self.lang: dict[str, int] = {l: get(f"<|{l}|>") for l in LANGS}
        self.translate, self.transcribe = get("<|translate|>"), get("<|transcribe|>")
        self.prev, self.nospeech, self.nots = (
            get("<|startofprev|>"),
            get("<|nospeech|>"),
            get("<|notimestamps|>"),
        )
        self.ts = self.nots + 1
        self.size = self.ts + N_TS


# --------------------------------------------------------------------------
# Features: the same log-mel as faster_whisper.feature_extractor
# --------------------------------------------------------------------------
def _mel_bank() -> Array:
    from faster_whisper.feature_extractor import FeatureExtractor

    bank: Array = FeatureExtractor(feature_size=80).mel_filters
    return bank


_BANK: Array | None = None


def log_power_mel(wav: Array) -> Array:
    """log10 mel power of `wav` between silences, two frames of lead-in included."""
    global _BANK
    if _BANK is None:
        _BANK = _mel_bank()
    window = np.hanning(401)[:-1].astype(np.float32)
    n = len(wav)
    frames = 2 + -(-(n + 200) // 160)
    x = np.zeros(frames * 160 + 800, np.float32)
    x[520 : 520 + n] = wav  # frame 2 is centred on the first sample
    s = np.lib.stride_tricks.sliding_window_view(x, 400)[::160][:frames] * window
    power = np.abs(np.fft.rfft(s, axis=-1)).astype(np.float32) ** 2
    return np.log10(np.maximum(power @ _BANK.T, 1e-10))


# --------------------------------------------------------------------------
# Cache of spoken utterances
# --------------------------------------------------------------------------
def token_times(
    text: str, lang: str, words: list[C.Word], end: float, tok: Any
) -> list[tuple[int, float, float]]:
    """[(token, first s, last s)] from the word times of the synthesizer."""
    chars = [w[0] for w in words]
    times = [w[2] for w in words]
    last = len(text) - 1 if not text[-1].isalnum() else len(text)
    chars.append(last)
    times.append(end)
    shown = " " + text if lang == "en" else text
    shift = 1 if lang == "en" else 0
    enc = tok.encode(shown, add_special_tokens=False)
    out = []
    for i, (tid, (a, b)) in enumerate(zip(enc.ids, enc.offsets)):
        a, b = a - shift, b - shift
        piece = shown[a + shift : b + shift]
        if piece.strip() in (".", "?", "。", "？"):
            out.append((tid, end - 0.02, end + 0.08))
            continue
        while a < b and (a < 0 or text[a] == " "):
            a += 1
        if b < len(text) and text[b] == " ":
            b += 1
        t0, t1 = np.interp([a, b], chars, times)
        out.append((tid, float(t0), float(max(t1, t0 + 0.02))))
    return out


def _make_part(args: tuple[int, str, int, str]) -> list[dict[str, Any]]:
    seed, lang, n, tok_path = args
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(tok_path)
    r, rng, es = random.Random(seed), np.random.default_rng(seed), C.Espeak()
    out: list[dict[str, Any]] = []
    while len(out) < n:
        text, tr, kind = C.draw(r, lang, test=False)
        voice = C.random_voice(r, lang)
        got = es.say(text, *voice)
        if got is None or len(got[1]) == 0:
            continue
        wav, words, phones, end = got
        wav = C.effects(wav, rng)
        rms = math.sqrt(float(np.mean(wav**2)) + 1e-12)
        mel = log_power_mel(wav * (0.08 / rms)).astype(np.float16)
        out.append(
            dict(
                text=text,
                translation=tr,
                lang=lang,
                mel=mel,
                end=end,
                tokens=token_times(text, lang, words, end, tok),
                phones=[(t, lang + p) for t, p in phones],
            )
        )
    return out


def make_cache(work: str, n_en: int, n_zh: int) -> list[dict[str, Any]]:
    """Speak the training side of the corpus; log-mels of the utterances to disk."""
    tok_path = os.path.join(work, "tokenizer.json")
    build_tokenizer(tok_path)
    jobs = [(SEED + i, "en", n_en // 8, tok_path) for i in range(8)]
    jobs += [(SEED + 100 + i, "zh", n_zh // 4, tok_path) for i in range(4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        utts = [u for part in pool.map(_make_part, jobs, chunksize=1) for u in part]
    names = sorted({p for u in utts for _, p in u["phones"] if not p[2:].startswith("_")})
    number = {p: i + 1 for i, p in enumerate(names)}
    for u in utts:
        u["frames"] = len(u["mel"])
    mels = np.concatenate([u.pop("mel") for u in utts])
    np.save(os.path.join(work, "mels.npy"), mels)
    import pickle

    for u in utts:
        u["phones"] = [(t, number.get(p, 0)) for t, p in u["phones"]]
    with open(os.path.join(work, "utts.pkl"), "wb") as f:
        pickle.dump(dict(utts=utts, phones=names), f)
    return utts


class Corpus:
    """The cached utterances, with per-frame labels."""

    def __init__(self, work: str) -> None:
        import pickle

        from tokenizers import Tokenizer

        self.tok = Tokenizer.from_file(os.path.join(work, "tokenizer.json"))
        self.ids = Ids(self.tok)
        with open(os.path.join(work, "utts.pkl"), "rb") as f:
            data = pickle.load(f)
        self.utts, self.n_phones = data["utts"], len(data["phones"]) + 1
        self.mels = np.load(os.path.join(work, "mels.npy"), mmap_mode=None)
        at = 0
        self.by_lang: dict[str, list[int]] = {l: [] for l in LANGS}
        self.translated: list[int] = []
        used = sorted({t for u in self.utts for t, _, _ in u["tokens"]})
        piece = {t: i + 1 for i, t in enumerate(used)}
        self.n_pieces = len(used) + 1
        for i, u in enumerate(self.utts):
            n = u["frames"]
            u["at"], at = at, at + n
            tl, pl = np.zeros(n, np.int16), np.zeros(n, np.int16)
            for tid, t0, t1 in u["tokens"]:
                tl[2 + int(t0 * 100) : 2 + int(min(t1, u["end"]) * 100)] = piece[tid]
            ph = u["phones"] + [(u["end"], 0)]
            for (t0, p), (t1, _) in zip(ph, ph[1:]):
                pl[2 + int(t0 * 100) : 2 + int(t1 * 100)] = p
            u["tl"], u["pl"] = tl, pl
            if u["translation"]:
                u["tr"] = self.tok.encode(" " + u["translation"], add_special_tokens=False).ids
                self.translated.append(i)
            self.by_lang[u["lang"]].append(i)
        self.word_start = np.array(
            [(self.tok.id_to_token(i) or "").startswith("Ġ") for i in range(self.ids.eot)]
        )

    def mel(self, u: dict[str, Any]) -> Array:
        mel: Array = self.mels[u["at"] : u["at"] + u["frames"]]
        return mel


def noise_bank(seed: int, n: int = 8) -> tuple[list[Array], list[Array]]:
    """log10 mel power of 30 s pieces of noise and of tones, RMS 1."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        x = rng.standard_normal(480000)
        if i % 4:  # pink, brown, hum
            f = np.fft.rfft(x)
            f /= np.maximum(np.arange(len(f)), 30.0) ** (0.5 * (i % 4))
            x = np.fft.irfft(f)
        if i % 4 == 3:
            t = np.arange(480000) / C.RATE
            x = 0.1 * x / x.std() + sum(np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 6))
        out.append(log_power_mel((x / x.std()).astype(np.float32))[2:3002])
    tones = []
    for i in range(n):
        t = np.arange(480000) / C.RATE
        x = np.zeros(480000)
        for _ in range(rng.integers(1, 4)):
            f0 = rng.uniform(100, 3000)
            x += (
                rng.uniform(0.2, 1)
                * np.sin(2 * np.pi * f0 * t)
                * (np.sin(2 * np.pi * rng.uniform(0.1, 3) * t) > rng.uniform(-1.2, 0.8))
            )
        tones.append(log_power_mel((x / (x.std() + 1e-9)).astype(np.float32))[2:3002])
    return out, tones


class Windows:
    """Composes training windows from the cache.

    Speech over digital silence is composed exactly; added noise is summed as
    power (see `check_features`).
    """

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self.c, self.ids = corpus, corpus.ids
        self.r, self.rng = random.Random(seed), np.random.default_rng(seed)
        self.noise, self.tones = noise_bank(SEED)

    def finish(self, x: Array, content: int, total: int) -> Array:
        """Noise, level, dynamic range and zero padding -> [total, 80]."""
        r = self.r
        gain = r.uniform(-2.2, 0.8)  # log10 power: -22 .. +8 dB
        x = x + gain
        if r.random() < 0.35:
            level = gain + 2 * math.log10(0.08) - r.uniform(1.5, 4.5)
            n = self.noise[r.randrange(len(self.noise))]
            n = np.roll(n, r.randrange(3000), axis=0)[:content] + level
            x = np.logaddexp(x * 2.302585, n * 2.302585) / 2.302585
        x = np.maximum(x, FLOOR)
        top = x.max() + (r.uniform(0, 0.6) if r.random() < 0.2 else 0.0)
        x = (np.maximum(x, top - 8.0) + 4.0) / 4.0
        if r.random() < 0.1:  # hide a few mel bands
            b, w = r.randrange(75), r.randrange(1, 8)
            x[:, b : b + w] = x.mean()
        out = np.zeros((total, 80), np.float32)
        out[:content] = x
        return out

    def silent(self, total: int) -> Window:
        r, ids = self.r, self.ids
        content = total if r.random() < 0.6 else r.randrange(40, total)
        x = np.full((content, 80), FLOOR, np.float32)
        k = r.random()
        if k > 0.3:
            bank = self.tones if k > 0.8 else self.noise
            n = np.roll(bank[r.randrange(len(bank))], r.randrange(3000), axis=0)[:content]
            x = np.maximum(n + r.uniform(-7, -1), FLOOR)
        x = (np.maximum(x, x.max() - 8.0) + 4.0) / 4.0
        mel = np.zeros((total, 80), np.float32)
        mel[:content] = x
        lang = ids.lang[r.choice(LANGS)]
        task = ids.transcribe if r.random() < 0.8 else ids.translate
        z = np.zeros(total, np.int16)
        if r.random() < 0.5:
            seq, lab = [ids.sot, lang, task, ids.nots], [ids.nospeech, -100, -100, ids.eot]
        else:
            seq, lab = [ids.sot, lang, task, ids.ts], [ids.nospeech, -100, ids.ts, ids.eot]
        return mel, seq, lab, [(-1, -1)] * len(seq), z, z

    def one(self, total: int, offset: int, prompt: bool) -> Window:
        """One window of `total` mel frames that begins at encoder position `offset`."""
        r, ids, c = self.r, self.ids, self.c
        if r.random() < 0.06:
            return self.silent(total)
        lang = "en" if r.random() < 0.62 else "zh"
        translate = r.random() < (0.06 if lang == "en" else 0.45)
        pool = c.translated if translate and lang == "zh" else c.by_lang[lang]
        content = (
            total
            if r.random() < (0.5 if total > 1500 else 0.75)
            else r.randrange(min(300, total // 2), total)
        )
        x = np.full((content, 80), FLOOR, np.float32)
        tl, pl = np.zeros(total, np.int16), np.zeros(total, np.int16)
        k = r.random()
        at = (
            r.randrange(2, 12)
            if k < 0.35
            else r.randrange(2, 100 if k < 0.8 else max(101, min(600, content // 2)))
        )
        limit = r.randrange(1, 4) if r.random() < (0.25 if total > 1500 else 0.1) else 99
        segs: list[
            tuple[float, float, list[tuple[int, float, float]] | None, bool]
        ] = []  # (start s, end s, tokens or None)
        while limit:
            u = c.utts[pool[r.randrange(len(pool))]]
            cut = at + int(u["end"] * 100) + 4 > content
            if cut and segs and r.random() < 0.5:
                break
            skip = 0
            if not segs and not cut and not translate and r.random() < 0.06 and u["end"] > 1.5:
                skip = r.randrange(20, int(u["end"] * 100) - 80)  # began before the window
                at = 2
            m = c.mel(u)[skip:]
            a = at - 2
            b = min(a + len(m), content)
            if b <= a:
                break
            x[a:b] = np.maximum(x[a:b], m[: b - a].astype(np.float32) + r.uniform(-0.4, 0.4))
            tl[a:b], pl[a:b] = u["tl"][skip : skip + b - a], u["pl"][skip : skip + b - a]
            base = (at - skip) / 100.0
            t_end = min(base + u["end"], content / 100.0)
            t_start = max(base, 0.0)
            toks: list[tuple[int, float, float]] | None
            if translate and lang == "zh":
                if cut:
                    toks = None
                else:
                    toks = [(t, -1, -1) for t in u["tr"]]
            else:
                toks = [
                    (t, base + t0, base + t1)
                    for t, t0, t1 in u["tokens"]
                    if base + t0 >= -0.02 and base + min(t1, u["end"]) <= content / 100.0 + 0.03
                ]
                while skip and lang == "en" and toks and not c.word_start[toks[0][0]]:
                    toks.pop(0)
                if cut and toks:
                    t_end = min(t_end, toks[-1][2])
            segs.append((t_start, t_end, toks, cut))
            if cut:
                break
            k = r.random()
            gap = (
                r.uniform(0.12, 0.5) if k < 0.6 else r.uniform(0.5, 1.5) if k < 0.92 else r.uniform(1.5, 6.0)
            )
            at += int((u["end"] + gap) * 100) - skip
            limit -= 1
            if at >= content - 20:
                break
        mel = self.finish(x, content, total)
        # ---- target sequence -------------------------------------------------
        seq: list[int] = []
        lab: list[int] = []
        guide: list[Guide] = []

        def put(token: int, span: Guide = (-1, -1), label: bool = True) -> None:
            """`token` is what the previous position must predict."""
            lab.append(token if label else -100)
            guide.append(span)
            seq.append(token)

        if prompt:
            seq.append(ids.prev)
            want = r.randrange(5, 224 if r.random() < 0.35 else 80)
            words: list[int] = []
            src = c.by_lang["en" if translate else lang]
            with_ts = r.random() < 0.5
            t = 0
            while len(words) < want:
                u = c.utts[src[r.randrange(len(src))]]
                body = [w for w, _, _ in u["tokens"]]
                if with_ts:
                    t = t % 1300
                    body = [ids.ts + t] + body + [ids.ts + t + 100]
                    t += 120
                words += body
            words = words[-want:]
            for w in words:
                put(w, label=False)
            put(ids.sot, label=False)
        else:
            seq.append(ids.sot)
        put(ids.lang[lang])
        put(ids.translate if translate else ids.transcribe, label=False)

        stamp: Callable[[float], int] = lambda t: ids.ts + min(N_TS - 1, max(0, int(round(t * 50)) + offset))
        local: Callable[[float], Guide] = lambda t: (max(0, int(t * 50) - 1), int(t * 50) + 2)
        if r.random() < (0.85 if total > 1500 else 0.6):  # with timestamps
            first, count = True, 0
            for t0, t1, toks, cut in segs:
                if (cut and not first) or not toks:
                    # the rest of this sentence belongs to the next window
                    if not first or cut:
                        put(stamp(t0), local(t0))
                    break
                if count >= PASS:
                    # enough for one pass: say where the next sentence starts and
                    # stop; the decoder continues from there with a new window
                    put(stamp(t0), local(t0))
                    break
                count += len(toks)
                if first and offset == 0 and r.random() < 0.25:
                    # decoders limit the first timestamp: accept any early one
                    put(ids.ts + r.randrange(0, max(1, min(50, int(t0 * 50) + 1))), label=False)
                else:
                    put(stamp(t0), local(t0))
                first = False
                for w, a, b in toks:  # type: ignore[assignment]
                    put(w, (int(a * 50), max(int(a * 50) + 1, int(b * 50))) if a >= 0 else (-1, -1))
                put(stamp(t1), local(t1))
        else:
            put(ids.nots, label=False)
            for t0, t1, toks, cut in segs:
                for w, a, b in toks or ():  # type: ignore[assignment]
                    put(w, (int(a * 50), max(int(a * 50) + 1, int(b * 50))) if a >= 0 else (-1, -1))
        put(ids.eot)
        return mel, seq[:-1], lab, guide, tl, pl

    def batch(self, seconds: float, size: int, prompt_share: float) -> dict[str, Any]:
        total = int(seconds * 100) // 2 * 2
        prompt = self.r.random() < prompt_share
        items, offs = [], []
        for _ in range(size):
            room = 1500 - total // 2
            off = 0 if self.r.random() < 0.4 or room <= 0 else self.r.randrange(room)
            items.append(self.one(total, off, prompt))
            offs.append(off)
        s = min(MAX_TARGET, max(len(i[1]) for i in items))
        ids = self.ids
        seq = np.full((size, s), ids.eot, np.int64)
        lab = np.full((size, s), -100, np.int64)
        gd = np.full((size, s, 2), -1, np.int64)
        for i, it in enumerate(items):
            n = min(s, len(it[1]))
            seq[i, :n], lab[i, :n], gd[i, :n] = it[1][:n], it[2][:n], it[3][:n]
        t = torch.from_numpy
        return dict(
            mel=t(np.stack([i[0] for i in items])).transpose(1, 2).contiguous(),
            off=torch.tensor(offs),
            seq=t(seq),
            lab=t(lab),
            guide=t(gd),
            tl=t(np.stack([i[4][::2] for i in items]).astype(np.int64)),
            pl=t(np.stack([i[5][::2] for i in items]).astype(np.int64)),
        )


# --------------------------------------------------------------------------
# The network: Whisper, parameter names as in transformers
# --------------------------------------------------------------------------
def sinusoids(length: int, channels: int) -> Tensor:
    """Give Whisper's table of positions."""
    inc = math.log(10000) / (channels // 2 - 1)
    inv = torch.exp(-inc * torch.arange(channels // 2))
    t = torch.arange(length)[:, None] * inv[None]
    return torch.cat([t.sin(), t.cos()], dim=1)


# Ten wavelengths of the position code, from 6 frames to the whole window, are
# made louder, and the encoder is asked to hand them through to its output.
PLACE = [i + half for half in (0, D // 2) for i in range(0, 60, 6)]


def position_code() -> Tensor:
    """Give the encoder's table of positions."""
    table = sinusoids(1500, D)
    table[:, PLACE] *= 2
    return table


class Attention(nn.Module):
    """Attention to itself or to `memory`, with its weights if asked for."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.n = heads
        self.k_proj = nn.Linear(D, D, bias=False)
        self.v_proj = nn.Linear(D, D)
        self.q_proj = nn.Linear(D, D)
        self.out_proj = nn.Linear(D, D)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.n, D // self.n).transpose(1, 2)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, causal: bool = False, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        m = x if memory is None else memory
        q, k, v = self.heads(self.q_proj(x)), self.heads(self.k_proj(m)), self.heads(self.v_proj(m))
        p = None
        if weights:
            p = torch.softmax((q @ k.transpose(2, 3)).float() * (D // self.n) ** -0.5, dim=-1)
            o = p.to(v.dtype) @ v
        elif memory is None and not causal and x.shape[1] < 400:  # faster than the fused one
            o = torch.softmax((q * (D // self.n) ** -0.5) @ k.transpose(2, 3), dim=-1).to(v.dtype) @ v
        else:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(o.transpose(1, 2).reshape(x.shape)), p


class Layer(nn.Module):
    """A layer of the encoder, or with `cross` of the decoder."""

    def __init__(self, cross: bool) -> None:
        super().__init__()
        heads = DEC_HEADS if cross else ENC_HEADS
        self.self_attn = Attention(heads)
        self.self_attn_layer_norm = nn.LayerNorm(D)
        if cross:
            self.encoder_attn = Attention(heads)
            self.encoder_attn_layer_norm = nn.LayerNorm(D)
        self.fc1, self.fc2 = nn.Linear(D, FFN), nn.Linear(FFN, D)
        self.final_layer_norm = nn.LayerNorm(D)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        p = None
        x = x + self.self_attn(self.self_attn_layer_norm(x), causal=memory is not None)[0]
        if memory is not None:
            y, p = self.encoder_attn(self.encoder_attn_layer_norm(x), memory, weights=weights)
            x = x + y
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), p


class Encoder(nn.Module):
    """Log-mel frames to what the decoder attends to, and what is half way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(80, D, 3, padding=1)
        self.conv2 = nn.Conv1d(D, D, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(1500, D)
        self.embed_positions.weight.data = position_code()
        self.embed_positions.weight.requires_grad = False
        self.layers = nn.ModuleList(Layer(False) for _ in range(ENC_LAYERS))
        self.layer_norm = nn.LayerNorm(D)

    def forward(self, mel: Tensor, off: Tensor) -> tuple[Tensor, Tensor | None]:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        pos = off[:, None] + torch.arange(x.shape[1])[None]
        x = x + self.embed_positions(pos)
        mid = None
        for i, layer in enumerate(self.layers):
            x, _ = layer(x)
            if i == ENC_LAYERS // 2 - 1:
                mid = x
        return self.layer_norm(x), mid


class Decoder(nn.Module):
    """Tokens and memory to logits, and where the last layer looked."""

    def __init__(self, first_ts: int) -> None:
        super().__init__()
        # Timestamp embeddings are one affine map of the encoder's position
        # code, not 1501 free rows: each is seen too rarely to be learned alone.
        self.embed_text = nn.Parameter(torch.randn(first_ts, D) * 0.04)
        self.ts_map = nn.Linear(D, D)
        self.ts_map.weight.data = 0.05 * torch.eye(D)
        self.register_buffer("positions", sinusoids(N_TS, D), persistent=False)
        self.embed_positions = nn.Embedding(MAX_TARGET, D)
        self.layers = nn.ModuleList(Layer(True) for _ in range(DEC_LAYERS))
        self.layer_norm = nn.LayerNorm(D)

    def table(self) -> Tensor:
        """Give the token embeddings (shared by input and output) in full."""
        with torch.autocast("cpu", enabled=False):
            return torch.cat([self.embed_text, self.ts_map(self.positions)])

    def forward(self, seq: Tensor, memory: Tensor) -> tuple[Tensor, Tensor | None]:
        table = self.table()
        x = F.embedding(seq, table) + self.embed_positions.weight[: seq.shape[1]]
        p = None
        for i, layer in enumerate(self.layers):
            x, p = layer(x, memory, weights=i == DEC_LAYERS - 1)
        x = self.layer_norm(x)
        return F.linear(x, table), p


class Whisper(nn.Module):
    """The network with the heads that help in training."""

    def __init__(self, first_ts: int, n_phones: int, n_pieces: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder(first_ts)
        self.phone_norm, self.phone_head = nn.LayerNorm(D), nn.Linear(D, n_phones)
        self.piece_head = nn.Linear(D, n_pieces)
        self.place_head = nn.Linear(D, len(PLACE))
        for name, p in self.named_parameters():
            if p.dim() == 2 and "embed" not in name and "ts_map" not in name:
                nn.init.normal_(p, std=D**-0.5 * (0.5 if "out_proj" in name or "fc2" in name else 0.9))
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        self.decoder.embed_positions.weight.data = 0.05 * sinusoids(MAX_TARGET, D)

    def forward(self, b: dict[str, Any]) -> tuple[Tensor | None, ...]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not b.get("frozen")):
            memory, mid = self.encoder(b["mel"], b["off"])
        logits, p = self.decoder(b["seq"], memory)
        if b.get("frozen"):
            return logits, p, None, None, None
        return (
            logits,
            p,
            self.phone_head(self.phone_norm(mid)),
            self.piece_head(memory[:, ::2]),
            self.place_head(memory),
        )


def losses(model: Any, b: dict[str, Any], aux: float) -> tuple[Tensor, tuple[Any, ...]]:
    """Give the loss to minimise, and its parts."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, p, phones, pieces, place = model(b)
    keep = b["lab"].flatten() >= 0
    ce = F.cross_entropy(logits.flatten(0, 1)[keep].float(), b["lab"].flatten()[keep], label_smoothing=0.0)
    f0, f1 = b["guide"][..., 0], b["guide"][..., 1]
    n = p.shape[-1]
    ok = (f0 >= 0) & (f0 < n)
    rows = p[:, :2].transpose(1, 2)[ok]  # [rows, 2, frames]
    t = torch.arange(n)[None]
    inside = ((t >= f0[ok][:, None]) & (t < f1[ok][:, None]))[:, None]
    guide = -torch.log((rows * inside).sum(-1) + 1e-5).mean() if len(rows) else ce * 0
    if phones is None:
        z = torch.zeros(())
        return ce + 0.3 * guide, (z, ce, guide, z, z, logits, keep)
    ph = F.cross_entropy(phones.flatten(0, 1).float(), b["pl"].flatten())
    pc = F.cross_entropy(pieces.flatten(0, 1).float(), b["tl"][:, ::2].flatten())
    # The encoder must keep saying *where* each frame is: without this it drops
    # the position code, and neither timestamps nor word order are learned.
    where = b["off"][:, None] + torch.arange(n)[None]
    pl = F.mse_loss(place.float(), model.encoder.embed_positions.weight[:, PLACE][where])
    return ce + 0.3 * guide + aux * (ph + pc) + 2 * pl, (pl, ce, guide, ph, pc, logits, keep)


# --------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------
def plan(progress: float, r: random.Random) -> tuple[float, int, float]:
    """Choose window length, batch size, share of prompted batches: short windows first, then the full 30 s."""
    k = r.random()
    if progress < 0.45:
        return (6.0, 24, 0.0) if k < 0.85 else (12.0, 12, 0.0)
    if progress < 0.68:
        return (6.0, 24, 0.05) if k < 0.35 else (12.0, 12, 0.08) if k < 0.85 else (30.0, 5, 0.1)
    return (6.0, 24, 0.15) if k < 0.12 else (14.0, 12, 0.35) if k < 0.35 else (30.0, 8, 0.5)


def train(
    work: str,
    minutes: float | None = None,
    steps: int | None = None,
    lr: float = 2e-3,
    resume: bool = False,
    name: str = "model",
    from_progress: float = 0.0,
) -> None:
    """Time-boxed (`minutes`) or, for repeatability, step-boxed (`steps`)."""
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    corpus = Corpus(work)
    ids = corpus.ids
    model = Whisper(ids.ts, corpus.n_phones, corpus.n_pieces)
    if resume:
        old, now = torch.load(os.path.join(work, name + ".pt")), model.state_dict()
        model.load_state_dict(
            {
                k: v
                for k, v in old.items()
                if k in now and now[k].shape == v.shape and "encoder.embed_positions" not in k
            },
            strict=False,
        )
    print(
        "parameters",
        sum(p.numel() for p in model.encoder.parameters())
        + sum(p.numel() for p in model.decoder.parameters()),
        "vocabulary",
        ids.size,
        flush=True,
    )
    decay = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    opt = torch.optim.AdamW(
        [dict(params=decay, weight_decay=0.02), dict(params=plain, weight_decay=0.0)],
        lr=lr,
        betas=(0.9, 0.98),
        eps=1e-8,
        fused=True,
    )
    ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    windows = Windows(corpus, SEED + 1 + (7 if resume else 0))
    order = random.Random(SEED + 2)
    start = time.time()
    state = dict(step=0)

    def share(step: int) -> float:
        return step / steps if steps else (time.time() - start) / (60 * minutes)  # type: ignore[operator]

    def progress(step: int) -> float:
        return min(1.0, from_progress + (1 - from_progress) * share(step))

    q: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue(6)
    stop = threading.Event()

    def produce() -> None:
        n = 0
        while not stop.is_set():
            sec, size, prompted = plan(progress(n), order)
            b = windows.batch(sec, size, prompted)
            # What long windows teach is to follow a long text; the encoder
            # has nothing new to learn there and is mostly left alone.
            b["frozen"] = sec >= 30 and order.random() < 0.85
            n += 1
            while not stop.is_set():
                try:
                    q.put((sec, b), timeout=1)
                    break
                except queue.Full:
                    pass

    threading.Thread(target=produce, daemon=True).start()
    log: list[tuple[int, float]] = []
    seen, last_save = 0.0, time.time()
    while True:
        step = state["step"]
        done = progress(step)
        if done >= 1.0:
            break
        sec, b = q.get()
        warm = min(1.0, (step + 1) / (60 if resume else 150))
        rate = lr * warm * (0.5 * (1 + math.cos(math.pi * min(1.0, share(step)))) * 0.98 + 0.02)
        for g in opt.param_groups:
            g["lr"] = rate
        aux = 0.6 if done < 0.7 else 0.3
        loss, (pl, ce, guide, ph, pc, logits, keep) = losses(model, b, aux)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        state["step"] += 1
        seen += sec * len(b["off"])
        d = 0.997 if step > 400 else 0.98
        with torch.no_grad():
            for k, v in model.state_dict().items():
                ema[k].lerp_(v, 1 - d)
        if step % 25 == 0:
            good = logits.flatten(0, 1)[keep].argmax(-1) == b["lab"].flatten()[keep]
            lab = b["lab"].flatten()[keep]
            tx, ts = lab < ids.eot, lab >= ids.ts
            log.append((step, ce.item()))
            print(
                f"{step} {time.time() - start:.0f}s {done:.3f} L{sec:.0f} ce {ce.item():.3f} guide {guide.item():.3f} "
                f"pl {pl.item():.3f} ph {ph.item():.3f} pc {pc.item():.3f} text {good[tx].float().mean():.4f} "
                f"ts {good[ts].float().mean():.3f} q{q.qsize()} heard {seen / 3600:.1f}h",
                flush=True,
            )
        if time.time() - last_save > 120:
            torch.save(ema, os.path.join(work, name + ".tmp"))
            os.replace(os.path.join(work, name + ".tmp"), os.path.join(work, name + ".pt"))
            last_save = time.time()
    stop.set()
    torch.save(ema, os.path.join(work, name + ".pt"))
    json.dump(
        dict(
            steps=state["step"],
            minutes=(time.time() - start) / 60,
            hours_heard=seen / 3600,
            parameters=sum(p.numel() for n, p in model.named_parameters() if n.startswith(("enc", "dec"))),
        ),
        open(os.path.join(work, name + ".json"), "w"),
    )
    print("trained", state["step"], "steps", flush=True)


# --------------------------------------------------------------------------
# Export
# --------------------------------------------------------------------------
def export(work: str, out: str, quantization: str = "int8_float16", name: str = "model") -> None:
    """Checkpoint -> transformers Whisper -> CTranslate2 directory."""
    import shutil

    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperForConditionalGeneration,
    )

    tok_path = os.path.join(work, "tokenizer.json")
    tok = Tokenizer.from_file(tok_path)
    ids = Ids(tok)
    ckpt = torch.load(os.path.join(work, name + ".pt"))
    cfg = WhisperConfig(
        vocab_size=ids.size,
        num_mel_bins=80,
        d_model=D,
        encoder_layers=ENC_LAYERS,
        decoder_layers=DEC_LAYERS,
        encoder_attention_heads=ENC_HEADS,
        decoder_attention_heads=DEC_HEADS,
        encoder_ffn_dim=FFN,
        decoder_ffn_dim=FFN,
        max_source_positions=1500,
        max_target_positions=MAX_TARGET,
        pad_token_id=ids.eot,
        bos_token_id=ids.eot,
        eos_token_id=ids.eot,
        decoder_start_token_id=ids.sot,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    hf = WhisperForConditionalGeneration(cfg)
    own = Whisper(ids.ts, ckpt["phone_head.weight"].shape[0], ckpt["piece_head.weight"].shape[0])
    own.load_state_dict(ckpt)
    own.eval()
    state = {
        "model." + k: v
        for k, v in ckpt.items()
        if k.startswith(("encoder.", "decoder.")) and "embed_text" not in k and "ts_map" not in k
    }
    table = own.decoder.table().detach().clone()
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = table
    missing, extra = hf.load_state_dict(state, strict=False)
    assert not missing and not extra, (missing, extra)
    space = tok.encode(" ", add_special_tokens=False).ids
    hf.generation_config = GenerationConfig(
        suppress_tokens=[],
        begin_suppress_tokens=space,
        eos_token_id=ids.eot,
        pad_token_id=ids.eot,
        decoder_start_token_id=ids.sot,
        max_length=MAX_TARGET,
    )
    hf.generation_config.alignment_heads = ALIGN_HEADS
    hf.generation_config.lang_to_id = {f"<|{l}|>": i for l, i in ids.lang.items()}
    # the same numbers from both implementations
    hf.eval()
    with torch.no_grad():
        mel = torch.randn(1, 80, 3000)
        seq = torch.randint(0, ids.size, (1, 12))
        a = own(dict(mel=mel, off=torch.zeros(1, dtype=torch.long), seq=seq))[0]
        b = hf(input_features=mel, decoder_input_ids=seq).logits
    print("largest difference to transformers:", (a - b).abs().max().item())
    assert (a - b).abs().max() < 1e-2
    hf_dir = os.path.join(work, "hf")
    shutil.rmtree(hf_dir, ignore_errors=True)
    hf.save_pretrained(hf_dir)
    shutil.copy(tok_path, hf_dir)
    PreTrainedTokenizerFast(
        tokenizer_file=tok_path,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    ).save_pretrained(hf_dir)
    shutil.copy(tok_path, hf_dir)
    with open(os.path.join(hf_dir, "preprocessor_config.json"), "w") as f:
        json.dump(
            dict(
                chunk_length=CHUNK,
                feature_extractor_type="WhisperFeatureExtractor",
                feature_size=80,
                hop_length=160,
                n_fft=400,
                n_samples=CHUNK * 16000,
                nb_max_frames=CHUNK * 100,
                padding_side="right",
                padding_value=0.0,
                processor_class="WhisperProcessor",
                return_attention_mask=False,
                sampling_rate=16000,
            ),
            f,
            indent=1,
        )
    shutil.rmtree(out, ignore_errors=True)
    TransformersConverter(hf_dir, copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
        out, quantization=quantization, force=True
    )
    print({f: os.path.getsize(os.path.join(out, f)) for f in sorted(os.listdir(out))})


def check_features() -> float:
    """Composed windows against FeatureExtractor on the same samples."""
    from faster_whisper.feature_extractor import FeatureExtractor

    es = C.Espeak()
    wav = es.say("The train leaves the station at seven in the morning.", "gmw/en-US")[0]  # type: ignore[index]
    sound = np.zeros(480000, np.float32)
    sound[16000 : 16000 + len(wav)] += wav
    sound[160000 : 160000 + len(wav)] += wav
    want = FeatureExtractor(feature_size=80)(sound)[:, :3000].T
    m = log_power_mel(wav)
    x = np.full((3000, 80), FLOOR, np.float32)
    for at in (100, 1000):
        x[at - 2 : at - 2 + len(m)] = np.maximum(x[at - 2 : at - 2 + len(m)], m)
    x = (np.maximum(x, x.max() - 8) + 4) / 4
    return float(np.abs(x - want).max())


def main() -> None:
    """Run the command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["all", "cache", "train", "export", "check"])
    ap.add_argument("--work", default="work")
    ap.add_argument("--out", default="model")
    ap.add_argument("--minutes", type=float)
    ap.add_argument("--steps", type=int)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--english", type=int, default=24000)
    ap.add_argument("--chinese", type=int, default=10000)
    ap.add_argument("--quantization", default="int8_float16")
    ap.add_argument("--resume", action="store_true", help="start from the checkpoint in WORK")
    ap.add_argument("--from-progress", type=float, default=0.0, help="where in the curriculum to start (0-1)")
    ap.add_argument("--name", default="model")
    a = ap.parse_args()
    os.makedirs(a.work, exist_ok=True)
    if a.what in ("all", "check"):
        print("largest feature difference:", check_features())
    if a.what in ("all", "cache"):
        make_cache(a.work, a.english, a.chinese)
    if a.what in ("all", "train"):
        train(
            a.work,
            a.minutes,
            a.steps if a.steps or a.minutes else 8000,
            a.lr,
            a.resume,
            a.name,
            a.from_progress,
        )
    if a.what in ("all", "export"):
        export(a.work, a.out, a.quantization, a.name)


if __name__ == "__main__":
    main()
