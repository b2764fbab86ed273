"""Results to files: composed, named, written whole, archived."""
