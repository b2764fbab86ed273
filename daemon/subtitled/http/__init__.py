"""The HTTP interfaces of the gateway, which is a client of the daemon like any other."""
