"""Watched folders whose media files become jobs."""
