"""`subtitled doctor`: checks of this machine, each fault with its remedy."""
