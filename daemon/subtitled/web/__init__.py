"""The web page: server-rendered HTML that scripts keep up to date."""
