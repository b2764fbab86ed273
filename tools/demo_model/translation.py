"""The translation model of the demo: from random weights to a CTranslate2 folder that looks like one of NLLB-200.

The network is transformers' M2M100 at a very small size, one for both directions: the language tags ``eng_Latn`` and
``zho_Hans`` begin the source and the target, as in NLLB-200. The optimizers, the course of the learning rate and the
moving average are those of the speech model (``training``).
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo_model import bitext, programme
from demo_model.bitext import Pair

if TYPE_CHECKING:
    from tokenizers import Tokenizer

STEPS = 1400
"""Steps of the run that made the model."""
WIDTH, HEADS, LAYERS, FEED_FORWARD, POSITIONS = 128, 4, 2, 512, 512
SENTENCES = 96
"""In a batch, half of them in each direction."""
BEAM = 5
TESTED = 2000
"""Held-out pairs that the evaluation translates in each direction."""
TAGS = ("eng_Latn", "zho_Hans")
BEGIN = "<!-- what follows is written by demo_model.translation -->"
END = "<!-- end of what demo_model.translation writes -->"
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_MERGES = 1000
_AVERAGE = 0.995
_BARE = 0.08
"""Share of pairs without capital letter and full stop: so are parts of a sentence in a transcript."""


def build_tokenizer(path: Path, seed: int) -> None:
    """Learn the tokenizer, byte-level BPE, and write it as a ``tokenizer.json``; a Chinese character is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    r = random.Random(seed)
    words: Counter[str] = Counter()
    for _ in range(20_000):
        english, chinese = (bitext.chinese_pair if r.random() < 1 / 3 else bitext.english_pair)(r)
        bare = english.rstrip(".?")
        for text in (bare, bare[0].lower() + bare[1:]):
            words.update(" " + word if i else word for i, word in enumerate(text.split()))
        words.update(dict.fromkeys(chinese, 3000))
    words.update(dict.fromkeys((".", "?"), 3000))
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(_SPECIAL) + 256 + _MERGES,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(_SPECIAL),
    )
    tokenizer.train_from_iterator(
        (word for word, n in sorted(words.items()) for _ in range(min(n, 400 if word.isascii() else 3000))),
        trainer,
    )
    tokenizer.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in TAGS])
    tokenizer.save(str(path))


def drawn(r: random.Random) -> Pair:
    """Draw a training pair, sometimes without capital letter and full stop."""
    english, chinese = bitext.draw(r, test=False)
    if r.random() < _BARE:
        return english[0].lower() + english[1:].rstrip("."), chinese.rstrip("。")
    return english, chinese


def _network(tokens: int) -> Any:
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    config = M2M100Config(
        vocab_size=tokens,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=FEED_FORWARD,
        decoder_ffn_dim=FEED_FORWARD,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    return M2M100ForConditionalGeneration(config)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Any:
    import torch

    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def _batch(tokenizer: Tokenizer, seed: int, step: int) -> tuple[Any, Any]:
    """Return the source tokens and the target tokens of a step, (sentences, longest)."""
    r = random.Random(f"{seed} translation {step}")
    tags = [int(tokenizer.token_to_id(tag) or 0) for tag in TAGS]
    sources, targets = [], []
    for i in range(SENTENCES):
        ids = [tokenizer.encode(text).ids for text in drawn(r)]
        source, target = (0, 1) if i % 2 else (1, 0)
        sources.append([tags[source], *ids[source], 2])
        targets.append([2, tags[target], *ids[target], 2])
    return _padded(sources, 1), _padded(targets, 1)


def train(work: Path, *, steps: int, seed: int) -> None:
    """Train on one core; leaves ``translation.pt``, ``translation.json`` and ``translation.log`` in ``work``."""
    import torch
    from tokenizers import Tokenizer
    from torch.nn import functional

    from demo_model import training

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    path = work / "translation-tokenizer.json"
    build_tokenizer(path, seed)
    tokenizer = Tokenizer.from_file(str(path))
    model = _network(tokenizer.get_vocab_size())
    model.train()
    optimizers = training.optimizers(model)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    started = time.monotonic()
    spent = 0.0
    with (work / "translation.log").open("w") as log:
        for step in range(steps):
            source, target = _batch(tokenizer, seed, step)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = training.rate(step, steps)
                optimizer.zero_grad(set_to_none=True)
            logits = model(
                input_ids=source,
                attention_mask=(source != 1).long(),
                decoder_input_ids=target[:, :-1],
            ).logits
            wanted = target[:, 1:]
            loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            keep = min(_AVERAGE, 1 - 1 / (1 + (step + 1) / 10))
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    average[name].lerp_(value, 1 - keep)
            if step % 100 == 0 or step + 1 == steps:
                spent = time.monotonic() - started
                right = float((logits.argmax(-1) == wanted)[wanted != 1].float().mean())
                line = f"{step} {spent:.0f} s: loss {loss.item():.4f}, tokens right {right:.4f}"
                print(line, flush=True)
                log.write(line + "\n")
                log.flush()
    torch.save(average, work / "translation.pt")
    facts = {
        "steps": steps,
        "seed": seed,
        "minutes": round(spent / 60, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokenizer.get_vocab_size(),
        "sentences": steps * SENTENCES,
        "torch": torch.__version__,
    }
    (work / "translation.json").write_text(json.dumps(facts, indent=1) + "\n")


def is_trained(work: Path, *, steps: int, seed: int) -> bool:
    """Return whether a run of so many steps has ended in ``work``."""
    facts = work / "translation.json"
    if not (facts.exists() and (work / "translation.pt").exists()):
        return False
    found = json.loads(facts.read_bytes())
    return (found["steps"], found["seed"]) == (steps, seed)


def convert(work: Path, out: Path) -> dict[str, int]:
    """Write ``work/translation.pt`` as a CTranslate2 folder to ``out``; return its files and their sizes in bytes."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import PreTrainedTokenizerFast

    tokenizer_file = work / "translation-tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), _SPECIAL, strict=True)),
        additional_special_tokens=list(TAGS),
    )
    model = _network(len(tokenizer))
    model.load_state_dict(torch.load(work / "translation.pt", map_location="cpu"))
    folder = work / "translation-transformers"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")  # as it was: save_pretrained adds to it
    shutil.rmtree(out, ignore_errors=True)
    TransformersConverter(str(folder), copy_files=["tokenizer.json"]).convert(
        str(out), quantization="int8", force=True
    )
    return {path.name: path.stat().st_size for path in sorted(out.iterdir())}


class Translator:
    """The converted model, called directly."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model = ctranslate2.Translator(str(folder), device="cpu", compute_type="int8", intra_threads=1)

    def translate(self, texts: Iterable[str], source: str, target: str) -> list[str]:
        """Translate sentences from one of TAGS into the other."""
        tokens = [[source, *self._tokenizer.encode(text).tokens, "</s>"] for text in texts]
        results = self._model.translate_batch(
            tokens, target_prefix=[[target]] * len(tokens), beam_size=BEAM, max_batch_size=64
        )
        ids = (
            [int(self._tokenizer.token_to_id(token) or 0) for token in result.hypotheses[0]]
            for result in results
        )
        return [self._tokenizer.decode(one).strip() for one in ids]


def demo_pairs() -> list[tuple[Pair, int]]:
    """Return the sentences of the demonstration recordings as pairs, and which side of each is spoken."""
    english = [((line.text, line.translation), 0) for line in programme.ENGLISH]
    return english + [((line.translation, line.text), 1) for line in programme.CHINESE]


def evaluate(folder: Path, seed: int) -> dict[str, Any]:
    """Translate held-out pairs and the demonstration's sentences; return how many came out exactly."""
    translator = Translator(folder)
    r = random.Random(f"{seed} translation test")
    pairs: dict[Pair, None] = {}
    while len(pairs) < TESTED:
        pairs[bitext.draw(r, test=True)] = None
    figures: dict[str, Any] = {}
    spoken = demo_pairs()
    for side in (0, 1):
        source, target = TAGS[side], TAGS[1 - side]
        for name, chosen in (
            (f"{source} to {target}", list(pairs)),
            (f"{source} to {target}, demo", [pair for pair, spoken_side in spoken if spoken_side == side]),
        ):
            found = translator.translate([pair[side] for pair in chosen], source, target)
            wrong = [
                [pair[side], pair[1 - side], text]
                for pair, text in zip(chosen, found, strict=True)
                if text != pair[1 - side]
            ]
            figures[name] = {
                "exact": len(chosen) - len(wrong),
                "of": len(chosen),
                "wrong": wrong,
            }
    return figures


def report(work: Path, figures: dict[str, Any], sizes: dict[str, int], document: Path) -> None:
    """Write the run and its figures into a document, between the two marks."""
    facts = json.loads((work / "translation.json").read_bytes())
    log = (work / "translation.log").read_text().splitlines()
    lines = [
        (
            f"Trained on one core: {facts['steps']:,} steps in {facts['minutes']} minutes, {facts['sentences']:,} pairs drawn,\n"
            f"seed {facts['seed']}, torch {facts['torch']}. {facts['parameters']:,} parameters, {facts['tokens']:,} tokens,\n"
            f"{sum(sizes.values()):,} bytes in all."
        ),
        "",
        f"| CTranslate2, CPU, int8, beam {BEAM} | exact |",
        "|---|---|",
        *(f"| {name} | {found['exact']:,} of {found['of']:,} |" for name, found in figures.items()),
        "",
        "```",
        *log[:: max(1, len(log) // 12)],
        "```",
    ]
    text = document.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    document.write_text(f"{head}{BEGIN}\n\n" + "\n".join(lines) + f"\n{END}{tail}", "utf-8")
