"""Files on the disk: written whole, counted, told by their file system."""
