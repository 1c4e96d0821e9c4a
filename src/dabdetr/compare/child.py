"""A training of a comparison: `dabdetr train` that stops, resumably, when the comparison is killed.

Its standard input is a pipe that nothing is written to; it closes when the comparison ends.
"""

from __future__ import annotations

import os
import signal
import threading


def main() -> None:
    """Run the command line."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    from dabdetr.cli import main as command

    command()


def _stop_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
