"""``python -m bridge`` is the ``pgbridge`` command."""

from bridge.cli import main

main()
