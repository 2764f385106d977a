"""See :mod:`edge_ad_runtime.guard.process`."""

import sys

from edge_ad_runtime.guard.process import main

if __name__ == "__main__":
    sys.exit(main())
