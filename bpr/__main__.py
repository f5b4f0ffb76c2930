"""`python -m bpr` is the `bpr` command."""

import sys

from bpr.scripts.main import main

if __name__ == "__main__":
    sys.exit(main())
