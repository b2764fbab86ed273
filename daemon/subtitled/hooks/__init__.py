"""What follows a job's end: commands and webhooks, at least once."""
