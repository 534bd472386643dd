"""The command line as a process of its own: slimcodec, and python -m slimcodec."""

import atexit
import gc
import os
import sys

COLLECT_AFTER = 100_000  # objects


def run(arguments: list[str] | None = None) -> int:
    _start_fast()
    from slimcodec.cli import main

    return main(arguments)


def _start_fast() -> None:
    # What is imported stays to the end, and pictures are in no cycles. To look through it all, again and again and once
    # more at the end, would be an eighth of a cold start.
    gc.set_threshold(COLLECT_AFTER)
    atexit.register(gc.freeze)
    # NumPy's products are short here. Other threads of theirs would spin for longer than it takes to compute them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


if __name__ == "__main__":
    sys.exit(run())
