"""`python -m predecode.pipeline` is the command `predecode`."""

import sys

from predecode.pipeline.cli import main

sys.exit(main())
