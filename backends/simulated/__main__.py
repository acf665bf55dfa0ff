"""Run `python -m backends.simulated`."""

import sys

from backends.simulated.cli import main

if __name__ == "__main__":
    sys.exit(main())
