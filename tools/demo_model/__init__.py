"""The recipe of the demo model: a tiny Whisper, made from nothing by ``make demo-model``.

In the order in which the recipe uses them:

- ``grammar``: the texts, English and Chinese with their translation; ``programme``: those of the recordings
- ``espeak``: what the synthesizer says, and when it says each word and phoneme
- ``sounds``: what happens to speech on its way, and what is no speech at all
- ``features``: samples to log-mel frames, as faster-whisper computes them
- ``vocabulary``: texts to tokens
- ``utterances``: some ten thousand sentences, spoken once and kept as log-mel
- ``windows``: utterances laid into windows of up to 30 s; ``targets``: what a decoder should write of one
- ``network``: Whisper, with the heads that help it learn; ``losses``; ``training``
- ``conversion``: to the CTranslate2 folder that the daemon bundles
- ``clips``, ``scores``, ``transcriber``, ``evaluation``: held-out audio, error rates, and whether the goals are met; ``report``
- ``recordings``: the demonstration recordings, and those a model cannot be sure of

Only ``grammar``, ``features``, ``vocabulary``, ``targets`` and ``scores`` work without the extra ``demo-model``.
"""
