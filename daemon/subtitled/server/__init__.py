"""The daemon's poll loop."""
