"""Workers that Ray places: a process beside the daemon, which asks Ray for them and lets go of those without work."""
