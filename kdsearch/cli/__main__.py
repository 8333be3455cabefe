"""`python -m kdsearch.cli`: the console script without its installation."""

from kdsearch.cli.app import main

main()
