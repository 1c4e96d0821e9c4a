"""What makes a training of a comparison stop, resumably, when the comparison is killed.

Its standard input is a pipe that nothing is written to; it closes when the comparison ends.
"""

from __future__ import annotations

import os
import signal
import threading


def stop_with_parent() -> None:
    """From now on, the end of standard input is a SIGTERM."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
