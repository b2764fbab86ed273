"""The systemd units, their installation, and notifications to systemd."""
