"""The command ``python -m sa.sweep``."""

import sys

from sa.sweep.command import main

if __name__ == "__main__":
    sys.exit(main())
