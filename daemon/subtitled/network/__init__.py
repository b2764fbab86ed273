"""The daemon's sockets: creation, authentication, rate limits."""
