"""The command ``python -m sa.testing MODULE:CLASS``, which is ``sa check MODULE:CLASS``."""

import sys

from sa.testing.command import check

if __name__ == "__main__":
    sys.exit(check(sys.argv[1:]))
