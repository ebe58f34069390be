"""``python -m replicator``: the same as the command ``replicator``."""

import sys

from replicator.cli.main import run

sys.exit(run())
