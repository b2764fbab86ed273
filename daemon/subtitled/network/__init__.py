"""The daemon's sockets: bound, authenticated, rate limited."""
