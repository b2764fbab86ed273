"""Process-level tools: threads, child processes, signals, limits."""
