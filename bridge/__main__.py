"""``python -m bridge`` is the ``pgbridge`` command."""

from bridge.cli.main import main

main()
