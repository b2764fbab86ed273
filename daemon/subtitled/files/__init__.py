"""Files and file systems."""
