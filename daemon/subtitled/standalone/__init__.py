"""Transcribe files without a configured daemon."""
