"""Worker processes: their protocol and roles, and the daemon's side of them."""
