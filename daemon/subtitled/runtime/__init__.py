"""What a process needs besides its work: threads, child processes, signals, limits."""
