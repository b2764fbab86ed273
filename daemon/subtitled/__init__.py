"""The daemon that turns media files into subtitles on every GPU of a server."""
