"""Cues: the model's phrases as readable subtitles, in several formats."""
