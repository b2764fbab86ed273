"""Checks of this repository that no general linter has: words, names, packages and the width of docs."""
