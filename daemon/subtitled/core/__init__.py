"""The pure heart of the daemon: no socket, file, clock, thread or numpy."""
