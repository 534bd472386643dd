"""python -m slimcodec: the command line."""

import sys

from slimcodec.cli import main

if __name__ == "__main__":
    sys.exit(main())
