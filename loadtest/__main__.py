"""Run `python -m loadtest` as `sluice certify`."""

import sys

from loadtest.cli import main

if __name__ == "__main__":
    sys.exit(main())
