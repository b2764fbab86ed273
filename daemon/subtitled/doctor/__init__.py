"""`subtitled doctor`: what is well on this machine, what is not, and what to do about it."""
