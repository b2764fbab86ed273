"""Workers placed by Ray: a process beside the daemon requests them and stops idle ones."""
