"""The worker as a child process.

``python -m replicator.worker --link ADDRESS --lease-fd N --engine-pid PID``; its settings come as one JSON
line on standard input, which the engine holds open for as long as it lives.
"""

from __future__ import annotations

import sys

from replicator.worker.main import main

sys.exit(main())
