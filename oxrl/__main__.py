"""`python -m oxrl ...` is the command line."""

import sys

from oxrl_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
