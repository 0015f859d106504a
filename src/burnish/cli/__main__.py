"""`python -m burnish.cli` is the same as the command `burnish`."""

from burnish.cli import main

main()
