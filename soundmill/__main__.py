"""``python -m soundmill``, the same as ``soundmill``."""

import sys

from soundmill.cli import main

if __name__ == "__main__":
    sys.exit(main())
