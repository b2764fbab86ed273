"""Error rates and time differences; case and punctuation are ignored."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from demo_model.grammar import Language

_MARKS = string.punctuation + "。？，"


def units(text: str, language: Language) -> list[str]:
    """Return the words of an English text, the characters of a Chinese one."""
    apart = text.translate(dict.fromkeys(map(ord, _MARKS), " "))
    return apart.lower().split() if language == "en" else list("".join(apart.split()))


@dataclass
class ErrorRate:
    """Words (characters) that were left out, put in or replaced, over all clips added."""

    errors: int = 0
    units: int = 0
    clips: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, said: str, heard: str, language: Language) -> None:
        """Add a clip."""
        from rapidfuzz.distance import Levenshtein

        want = units(said, language)
        wrong = Levenshtein.distance(want, units(heard, language))
        self.errors += wrong
        self.units += len(want)
        self.clips += 1
        if wrong and len(self.examples) < 5:
            self.examples.append((said.strip(), heard.strip()))

    @property
    def rate(self) -> float:
        """Errors in all units, 0 to 1 and above."""
        return self.errors / max(1, self.units)

    def figures(self) -> dict[str, object]:
        """Return what goes into the file of figures."""
        return {
            "error_rate": round(self.rate, 5),
            "errors": self.errors,
            "units": self.units,
            "windows": self.clips,
            "examples": self.examples,
        }


def spread(differences_s: Sequence[float]) -> dict[str, float]:
    """Return median, 95th percentile and largest of the absolute differences in seconds, and their mean with sign."""
    if not len(differences_s):
        return {
            "median_s": float("nan"),
            "p95_s": float("nan"),
            "largest_s": float("nan"),
            "bias_s": 0.0,
            "n": 0,
        }
    absolute = np.abs(np.asarray(differences_s))
    return {
        "median_s": round(float(np.median(absolute)), 4),
        "p95_s": round(float(np.percentile(absolute, 95)), 4),
        "largest_s": round(float(absolute.max()), 3),
        "bias_s": round(float(np.mean(differences_s)), 4),
        "n": len(absolute),
    }
