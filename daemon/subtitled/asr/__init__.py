"""Segments to phrases: the model, its files and devices, and the rules by which faster-whisper is used."""
