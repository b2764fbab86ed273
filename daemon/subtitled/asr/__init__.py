"""Segments to phrases: the model, its files and devices, and the rules by which faster-whisper is used."""

import os

# Read when CTranslate2 is imported. Threads of OpenMP spin while they wait for each other, 300,000 times by default: beside other
# processes they use the processor that the awaited thread needs. A clip took 0.5 to 0.7 s beside two busy processes, 0.1 s with this,
# and 0.03 s on a quiet machine with either.
os.environ.setdefault("GOMP_SPINCOUNT", "50000")
