"""The `subtitle` commands."""
