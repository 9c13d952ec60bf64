"""`python -m drawdown`: the command, for this same interpreter."""

from drawdown.cli import main

main()
