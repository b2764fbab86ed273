"""`python -m subtitled` is the command `subtitled`."""

from subtitled.cli import main

main()
