"""What the console script starts. Imports take seconds: Ctrl-C ends them as it ends a command."""

import os
import signal
import sys
from types import FrameType

EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells have it


def main() -> None:
    """Import the commands, and run the one that was asked for."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.default_int_handler:  # else interrupts are ignored, as in the background of a script
        signal.signal(signal.SIGINT, _leave)
    from agents import cli

    signal.signal(signal.SIGINT, previous)
    try:
        cli.main()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: nothing is begun, and a half-imported library may turn an exception into another one."""
    os.write(2, b"Stopped.\n")
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
