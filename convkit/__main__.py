"""``python -m convkit``."""

from convkit.cli import main

main()
