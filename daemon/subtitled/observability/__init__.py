"""Metrics, health, transition log and systemd status."""
