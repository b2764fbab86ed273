"""What clients reach: the doors, who may come in, their requests, the files that they send."""
