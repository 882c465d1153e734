"""`python -m export <command>`."""

from export.cli import main

main()
