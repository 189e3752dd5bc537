"""The ``pgbridge`` command, also as ``python -m bridge``."""

import gc

# Imports create objects that stay. With Python's 700 allocations between collections, examining
# them takes a fifth of the time to start. A bridge sets its own number when it serves.
gc.set_threshold(50_000)

from bridge.cli.main import main  # noqa: E402 - after the setting

if __name__ == "__main__":
    main()
