"""Measure the converted demo model through faster-whisper, on held-out text.

    python evaluate_demo_model.py --results results.json [--model DIR] [--clips N]
    python evaluate_demo_model.py --demo OUT         # write demo.flac, demo-zh.flac

No sentence used here was used in training (`demo_corpus.held_out`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import string
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import demo_corpus as C

RATE = C.RATE
MODEL = os.path.join(os.path.dirname(__file__), "..", "..", "daemon", "subtitled", "demo", "model")

Audio = npt.NDArray[np.float32]
Truth = list[dict[str, Any]]


# --------------------------------------------------------------------------
# Clips with known truth
# --------------------------------------------------------------------------
def clip(
    r: random.Random,
    es: C.Espeak,
    lang: str,
    seconds: float | None = None,
    count: int | None = None,
    gaps: tuple[float, float] = (0.4, 1.5),
    lead: tuple[float, float] = (0.1, 0.8),
    random_share: float = 0.0,
    noise_db: float | None = None,
    voices: Sequence[tuple[str, int, int, int]] | None = None,
    translated: bool = False,
    shape: bool = False,
) -> tuple[Audio, Truth]:
    """-> samples, truth: one dict per sentence (text, translation, start, end, words)."""
    rng = np.random.default_rng(r.randrange(1 << 30))
    parts: list[tuple[int, Audio]] = []
    truth: Truth = []
    at = r.uniform(*lead)
    while True:
        text, tr, kind = C.draw(r, lang, test=True, random_share=random_share)
        if translated and not tr:
            continue
        voice = r.choice(voices) if voices else C.random_voice(r, lang)
        got = es.say(text, *voice)
        if got is None:
            continue
        wav, words, _, end = got
        if shape:
            wav = C.effects(wav, rng)
        if seconds and at + end + 0.3 > seconds:
            break
        wav = wav * (0.08 / (np.sqrt(np.mean(wav**2)) + 1e-9))
        parts.append((int(at * RATE), wav))
        spans = C.word_spans(text, lang)
        chars = [w[0] for w in words] + [len(text)]
        times = [w[2] for w in words] + [end]
        full = [
            (
                text[a:b],
                at + float(np.interp(a, chars, times)),
                at + float(np.interp(min(b + 1, len(text)) if lang == "en" else b, chars, times)),
            )
            for a, b in spans
        ]
        truth.append(dict(text=text, translation=tr, start=at, end=at + end, words=full))
        at += end + r.uniform(*gaps)
        if count and len(truth) >= count:
            break
    n = int(seconds * RATE) if seconds else int((at + 0.3) * RATE)
    x = np.zeros(n, np.float32)
    for a, w in parts:
        w = w[: max(0, n - a)]
        x[a : a + len(w)] += w
    x *= 10 ** (r.uniform(-12, 4) / 20)
    if noise_db is not None:
        level = np.sqrt(np.mean(x[x != 0] ** 2)) * 10 ** (-noise_db / 20)
        x = x + (rng.standard_normal(n) * level).astype(np.float32)
    return np.clip(x, -1, 1).astype(np.float32), truth


# --------------------------------------------------------------------------
# Scores
# --------------------------------------------------------------------------
def units(text: str, lang: str) -> list[str]:
    """Give the words (Chinese: characters) of `text` without case and punctuation."""
    for p in string.punctuation + "。？，":
        text = text.replace(p, " " if lang == "en" else "")
    return text.lower().split() if lang == "en" else list(text.replace(" ", ""))


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Give the edit distance of two lists."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


class Rate:
    """An error rate, summed over clips."""

    def __init__(self) -> None:
        self.err = self.n = self.same = self.clips = 0
        self.examples: list[list[str]] = []

    def add(self, want: str, got: str, lang: str) -> None:
        a, b = units(want, lang), units(got, lang)
        d = distance(a, b)
        self.err += d
        self.n += len(a)
        self.clips += 1
        self.same += want.strip() == got.strip()
        if d and len(self.examples) < 6:
            self.examples.append([want.strip(), got.strip()])

    def out(self) -> dict[str, Any]:
        return dict(
            error_rate=round(self.err / max(1, self.n), 5),
            errors=self.err,
            units=self.n,
            clips=self.clips,
            clips_exact_with_punctuation=self.same,
            examples=self.examples,
        )


def stats(values: Sequence[float]) -> dict[str, Any] | None:
    """Give mean, median and the like of the absolute values."""
    if not len(values):
        return None
    v = np.abs(np.asarray(values))
    return dict(
        mean=round(float(v.mean()), 4),
        median=round(float(np.median(v)), 4),
        p95=round(float(np.percentile(v, 95)), 4),
        max=round(float(v.max()), 3),
        n=len(v),
    )


def joined(truth: Truth, lang: str, key: str = "text") -> str:
    """Give the sentences of a clip as one text."""
    return (" " if lang == "en" or key == "translation" else "").join(t[key] for t in truth)


def run(model: Any, audio: Audio, **kw: Any) -> tuple[list[Any], Any]:
    """Give segments and info of one transcription."""
    kw.setdefault("condition_on_previous_text", False)  # see MODEL.md
    segs, info = model.transcribe(audio, **kw)
    return list(segs), info


def evaluate(path: str, n: int = 30, seed: int = 77) -> dict[str, Any]:
    """Give all the figures of results.json."""
    # Names that stand for different things in its parts.
    got: Any
    k: Any
    kw: Any
    t: Any
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    r, es = random.Random(seed), C.Espeak()
    model = WhisperModel(path, device="cpu", compute_type="default", cpu_threads=2)
    batched = BatchedInferencePipeline(model)
    res: dict[str, Any] = {}

    # word error rates; "short" is 5-9 s, the others 12-29 s
    sets: dict[tuple[str, str], list[tuple[Audio, Truth]]] = {}
    for lang in ("en", "zh"):
        for name, kw in (
            ("short", dict(random_share=0.0)),
            ("sentences", dict(random_share=0.0)),
            ("random_words", dict(random_share=1.0)),
            ("noise_20dB", dict(random_share=0.3, noise_db=20, shape=True)),
        ):
            sets[lang, name] = [
                clip(r, es, lang, seconds=r.uniform(5, 9) if name == "short" else r.uniform(12, 29), **kw)
                for _ in range(n)
            ]
    wer: dict[str, Any] = {}
    seg_start: list[float] = []
    seg_end: list[float] = []
    seg_match, seg_all = 0, 0
    for (lang, name), clips in sets.items():
        a, b, c, d = Rate(), Rate(), Rate(), Rate()
        for x, truth in clips:
            want = joined(truth, lang)
            segs, _ = run(model, x, language=lang)
            a.add(want, "".join(s.text for s in segs), lang)
            seg_all += 1
            if len(segs) == len(truth):
                seg_match += 1
                for s, t in zip(segs, truth):
                    if units(s.text, lang) == units(t["text"], lang):
                        seg_start.append(s.start - t["start"])
                        seg_end.append(s.end - t["end"])
            segs, _ = run(model, x, language=lang, without_timestamps=True)
            b.add(want, "".join(s.text for s in segs), lang)
            segs, _ = run(batched, x, language=lang, batch_size=8)
            c.add(want, "".join(s.text for s in segs), lang)
            segs, _ = run(batched, x, language=lang, batch_size=8, chunk_length=30)
            d.add(want, "".join(s.text for s in segs), lang)
        wer[f"{lang} {name}"] = dict(
            timestamps=a.out(), without_timestamps=b.out(), batched=c.out(), batched_30s_chunks=d.out()
        )
        print(lang, name, *[k.out()["error_rate"] for k in (a, b, c, d)], flush=True)
        for e in a.examples[:2] + b.examples[:1]:
            print("   ", e)
    res["error_rates"] = wer
    res["segment_boundaries_s"] = dict(
        start=stats(seg_start),
        end=stats(seg_end),
        clips_with_the_true_number_of_segments=f"{seg_match}/{seg_all}",
        start_bias=round(float(np.mean(seg_start)), 4) if seg_start else None,
        end_bias=round(float(np.mean(seg_end)), 4) if seg_end else None,
    )
    print(res["segment_boundaries_s"], flush=True)

    # words
    words: dict[str, Any] = {}
    for lang in ("en", "zh"):
        ds: list[float] = []
        de: list[float] = []
        for x, truth in sets[lang, "short"] + sets[lang, "sentences"]:
            segs, _ = run(model, x, language=lang, word_timestamps=True)
            flat = [w for t in truth for w in t["words"]]
            if lang == "en":
                got = [(w.word.strip(), w.start, w.end) for s in segs for w in s.words]
            else:  # a Chinese "word" may hold two characters
                got, keep = [], []
                i = 0
                for s in segs:
                    for w in s.words:
                        k = len(units(w.word, lang))
                        if k:
                            got.append(("".join(units(w.word, lang)), w.start, w.end))
                            keep.append((i, i + k))
                            i += k
                if i != len(flat):
                    continue
                flat = [("".join(f[0] for f in flat[a:b]), flat[a][1], flat[b - 1][2]) for a, b in keep]
            if [units(g[0], lang) for g in got] != [units(f[0], lang) for f in flat]:
                continue
            ds += [g[1] - f[1] for g, f in zip(got, flat)]
            de += [g[2] - f[2] for g, f in zip(got, flat)]
        words[lang] = dict(
            start=stats(ds),
            end=stats(de),
            start_bias=round(float(np.mean(ds)), 4) if ds else None,
            end_bias=round(float(np.mean(de)), 4) if de else None,
        )
    res["word_times_s"] = words
    print(words, flush=True)

    # language, translation, silence
    good = total = 0
    probs: list[float] = []
    for lang in ("en", "zh"):
        for _ in range(2 * n):
            x, _ = clip(r, es, lang, count=r.choice([1, 1, 2, 4]), random_share=0.3)
            got, p, _ = model.detect_language(x)
            good += got == lang
            total += 1
            probs.append(p)
    res["language_detection"] = dict(right=good, of=total, lowest_probability=round(min(probs), 4))
    ex = tot = 0
    rate = Rate()
    bad: list[list[str]] = []
    for _ in range(4 * n):
        x, truth = clip(r, es, "zh", count=1, translated=True)
        segs, _ = run(model, x, language="zh", task="translate")
        got = "".join(s.text for s in segs).strip()
        tot += 1
        ex += got == truth[0]["translation"]
        if got != truth[0]["translation"]:
            bad.append([truth[0]["text"], truth[0]["translation"], got])
    for _ in range(n):
        x, truth = clip(r, es, "zh", seconds=r.uniform(12, 29), translated=True)
        segs, _ = run(model, x, language="zh", task="translate")
        rate.add(joined(truth, "zh", "translation"), "".join(s.text for s in segs), "en")
    res["translate"] = dict(exact_single_sentences=f"{ex}/{tot}", wrong=bad[:8], windows=rate.out())
    rng = np.random.default_rng(5)
    quiet: list[float] = []
    loud: list[float] = []
    hallucinated: list[str] = []
    runs = 0
    for i in range(n):
        k = int(r.uniform(2, 30) * RATE)
        x = [
            np.zeros(k),
            rng.standard_normal(k) * 10 ** r.uniform(-4, -1.3),
            0.1 * np.sin(2 * np.pi * r.uniform(100, 2000) * np.arange(k) / RATE),
        ][i % 3].astype(np.float32)
        for kw in (dict(), dict(without_timestamps=True)):
            segs, _ = run(
                model,
                x,
                language=r.choice(["en", "zh"]),
                no_speech_threshold=None,
                log_prob_threshold=None,
                temperature=0.0,
                **kw,
            )
            runs += 1
            if any(s.text.strip() for s in segs):
                hallucinated.append("".join(s.text for s in segs)[:60])
        quiet.append(no_speech(model, x))
        y, _ = clip(r, es, r.choice(["en", "zh"]), count=r.choice([1, 3]), random_share=0.3)
        loud.append(no_speech(model, y))
    res["no_speech_prob"] = dict(
        silence_lowest=round(min(quiet), 4),
        silence_median=round(float(np.median(quiet)), 4),
        speech_highest=round(max(loud), 6),
        text_on_silence=f"{len(hallucinated)}/{runs}",
        examples=hallucinated[:4],
    )
    for k in ("language_detection", "translate", "no_speech_prob"):
        print(k, res[k], flush=True)

    # a five-minute programme
    voices = [C.random_voice(r, "en") for _ in range(4)]
    prog, truth = clip(r, es, "en", seconds=300, gaps=(0.5, 5.0), random_share=0.15, voices=voices)
    want = joined(truth, "en")
    out: dict[str, Any] = {}
    for name, m, kw in (
        ("sequential", model, dict()),
        ("sequential, vad", model, dict(vad_filter=True)),
        ("sequential, word times", model, dict(word_timestamps=True)),
        ("sequential, prompt from before", model, dict(condition_on_previous_text=True)),
        ("batched, vad", batched, dict(batch_size=8)),
        ("batched, vad, 30 s chunks", batched, dict(batch_size=8, chunk_length=30)),
        ("batched, vad, timestamps", batched, dict(batch_size=8, without_timestamps=False)),
    ):
        t = time.time()
        segs, info = run(m, prog, **kw)
        t = time.time() - t
        a = Rate()
        a.add(want, "".join(s.text for s in segs), "en")
        ds = []
        if len(segs) == len(truth):
            ds = [s.start - t_["start"] for s, t_ in zip(segs, truth)]
        out[name] = dict(
            word_error_rate=a.out()["error_rate"],
            errors=a.err,
            words=a.n,
            segments=len(segs),
            sentences=len(truth),
            start_error_s=stats(ds),
            language=info.language,
            times_real_time=round(300 / t, 1),
        )
        print(name, out[name], flush=True)
    res["programme_5_min"] = out

    # speed and compute types
    speed: dict[str, float] = {}
    types: dict[str, Any] = {}
    for threads in (1, 2):
        m = WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=threads)
        b = BatchedInferencePipeline(m)
        for name, mm, kw in (
            ("sequential beam 5", m, dict()),
            ("sequential beam 1", m, dict(beam_size=1)),
            ("batched 8 beam 5", b, dict(batch_size=8)),
            ("batched 8 beam 1", b, dict(batch_size=8, beam_size=1)),
        ):
            part = prog[: RATE * 120]
            run(mm, part[: RATE * 20], language="en", **kw)
            t = time.time()
            run(mm, part, language="en", **kw)
            speed[f"{name}, {threads} thread(s)"] = round(120 / (time.time() - t), 1)
    for ct in ("default", "int8", "int8_float32", "float32"):
        m = WhisperModel(path, device="cpu", compute_type=ct, cpu_threads=2)
        a = Rate()
        for x, truth in sets["en", "short"] + sets["en", "sentences"][: n // 2]:
            segs, _ = run(m, x, language="en")
            a.add(joined(truth, "en"), "".join(s.text for s in segs), "en")
        types[ct] = dict(loaded_as=m.model.compute_type, word_error_rate=a.out()["error_rate"])
    res["speed_times_real_time"] = speed
    res["compute_types"] = types
    print(speed, types, flush=True)
    res["files_bytes"] = {f: os.path.getsize(os.path.join(path, f)) for f in sorted(os.listdir(path))}
    res["total_bytes"] = sum(res["files_bytes"].values())
    return res


def no_speech(model: Any, x: Audio) -> float:
    """no_speech_prob of the first window, as faster-whisper computes it."""
    from faster_whisper.audio import pad_or_trim

    f = pad_or_trim(model.feature_extractor(x)[:, :-1][:, :3000])
    enc = model.encode(f)
    g = model.hf_tokenizer.token_to_id
    out = model.model.generate(
        enc,
        [[g("<|startoftranscript|>"), g("<|en|>"), g("<|transcribe|>")]],
        return_no_speech_prob=True,
        beam_size=1,
    )
    return float(out[0].no_speech_prob)


def demo(out: str) -> None:
    """Write the demonstration recordings and their truth."""
    import soundfile

    es = C.Espeak()
    r = random.Random(2024)
    kw: Any
    for name, lang, kw in (
        (
            "demo",
            "en",
            dict(
                seconds=75,
                gaps=(0.6, 2.2),
                voices=[("gmw/en-US+f3", 160, 52, 50), ("gmw/en+m3", 155, 45, 50)],
            ),
        ),
        (
            "demo-zh",
            "zh",
            dict(
                seconds=20, gaps=(0.6, 1.2), translated=True, voices=[("sit/cmn-Latn-pinyin+f2", 155, 50, 50)]
            ),
        ),
    ):
        x, truth = clip(r, es, lang, lead=(0.4, 0.6), **kw)
        x = x / np.abs(x).max() * 0.6
        soundfile.write(os.path.join(out, name + ".flac"), x, RATE, subtype="PCM_16")
        with open(os.path.join(out, name + ".txt"), "w", encoding="utf-8") as f:
            for t in truth:
                line = f"{t['start']:.2f}\t{t['end']:.2f}\t{t['text']}"
                f.write(line + (f"\t{t['translation']}" if t["translation"] else "") + "\n")


def main() -> None:
    """Run the command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default=MODEL)
    ap.add_argument("--results")
    ap.add_argument("--clips", type=int, default=30, help="windows per condition")
    ap.add_argument("--demo")
    a = ap.parse_args()
    if a.demo:
        demo(a.demo)
        return
    res = evaluate(a.model, a.clips)
    if a.results:
        with open(a.results, "w", encoding="utf-8") as f:
            json.dump(res, f, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
