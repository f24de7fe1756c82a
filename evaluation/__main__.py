"""The command `python -m evaluation`."""

from evaluation.cli.app import main

main()
