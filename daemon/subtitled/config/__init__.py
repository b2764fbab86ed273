"""The configuration: its keys, where their values come from, what they are checked against."""
