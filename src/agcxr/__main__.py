"""`python -m agcxr`, the same as `agcxr`."""

import sys

from agcxr.cli import main

if __name__ == "__main__":
    sys.exit(main())
