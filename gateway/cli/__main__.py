"""What does `python -m gateway.cli` do? The same as `sluice`."""

import sys

from gateway.cli.main import main

sys.exit(main())
