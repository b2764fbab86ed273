"""The client API of the daemon: connections, requests, uploads."""
