"""``python -m demo_model``: make the demo model from nothing, or one part of it.  See ``--help``."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

SEED = 20261125
_REPOSITORY = Path(__file__).parents[2]
_BUNDLED = _REPOSITORY / "daemon" / "subtitled" / "demo"
_TESTS = _REPOSITORY / "tests" / "recordings"


def _device(asked: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _corpus(options: argparse.Namespace) -> None:
    from demo_model import utterances, vocabulary
    from demo_model.grammar import Language

    counts: dict[Language, int] = {"en": options.english, "zh": options.chinese}
    asked = {"seed": SEED, "en": options.english, "zh": options.chinese}
    done = options.work / "corpus.json"
    if done.exists() and json.loads(done.read_bytes()) == asked:
        print("there already")
        return
    vocabulary.build(options.work / "tokenizer.json", SEED)
    utterances.speak(options.work, counts, SEED, os.cpu_count() or 1)
    done.write_text(json.dumps(asked) + "\n")


def _train(options: argparse.Namespace) -> None:
    from demo_model import training

    steps = options.steps or training.STEPS
    if training.is_trained(options.work, steps=steps, seed=SEED):
        print("there already")
        return
    training.train(options.work, steps=steps, seed=SEED, device=_device(options.device))


def _convert(options: argparse.Namespace) -> None:
    from demo_model import conversion

    sizes = conversion.convert(options.work, options.out / "model")
    print(f"{sum(sizes.values()):,} bytes:", sizes)


def _record(options: argparse.Namespace) -> None:
    from demo_model import recordings

    for path in [*recordings.write(options.out), *recordings.degrade(options.tests)]:
        print(path)


def _evaluate(options: argparse.Namespace) -> None:
    from demo_model import evaluation

    evaluation.write(options.out / "model", options.figures, windows=options.windows)


def _report(options: argparse.Namespace) -> None:
    from demo_model import report

    report.write(options.work, options.figures, Path(__file__).with_name("MODEL.md"))


def _translation(options: argparse.Namespace) -> None:
    from demo_model import translation

    steps = options.steps or translation.STEPS
    if not translation.is_trained(options.work, steps=steps, seed=SEED):
        translation.train(options.work, steps=steps, seed=SEED)
    sizes = translation.convert(options.work, options.out / "translation")
    print(f"{sum(sizes.values()):,} bytes:", sizes)
    figures = translation.evaluate(options.out / "translation", SEED)
    here = Path(__file__)
    here.with_name("translation_figures.json").write_text(
        json.dumps(figures, ensure_ascii=False, indent=1) + "\n"
    )
    translation.report(options.work, figures, sizes, here.with_name("MODEL.md"))


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "corpus": _corpus,
    "train": _train,
    "convert": _convert,
    "record": _record,
    "evaluate": _evaluate,
    "report": _report,
    "translation": _translation,
}


def main() -> None:
    """Run the parts asked for, in the order of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m demo_model", description="Make the demo model from nothing."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these of {', '.join(PARTS)}")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for corpus and checkpoints")
    parser.add_argument("--out", type=Path, default=_BUNDLED, help="folder for model/ and the recordings")
    parser.add_argument("--figures", type=Path, default=Path(__file__).with_name("figures.json"))
    parser.add_argument("--tests", type=Path, default=_TESTS, help="folder for the tests' recordings")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument(
        "--steps", type=int, help="of training; 2300 by default; 1400 of the translation model"
    )
    parser.add_argument("--english", type=int, default=24_000, help="utterances")
    parser.add_argument("--chinese", type=int, default=12_000, help="utterances")
    parser.add_argument("--windows", type=int, default=200, help="held-out windows of each set")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options.work.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if name in (options.parts or PARTS):
            print(f"== {name}", flush=True)
            started = time.monotonic()
            part(options)
            print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
