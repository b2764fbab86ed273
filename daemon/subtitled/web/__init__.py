"""The page: what the daemon does, for people with a browser; rendered here, kept up to date by a little script."""
