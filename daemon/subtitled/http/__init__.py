"""The gateway: HTTP that other programs know, for a daemon whose client it is like any other."""
