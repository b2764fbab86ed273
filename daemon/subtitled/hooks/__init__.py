"""Hooks after a job's end: commands and the webhook, delivered at least once."""
