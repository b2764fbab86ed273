"""How the daemon is, for those who watch it: metrics, health, log lines, systemd."""
