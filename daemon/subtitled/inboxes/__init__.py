"""Watched folders: which files are taken, when they are at rest, how they become jobs."""
