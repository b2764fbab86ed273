"""Downloads of media from the addresses that clients submit."""
