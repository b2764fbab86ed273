"""A media file to planned segments with their PCM: opened, demuxed, decoded, its speech found and cut."""
