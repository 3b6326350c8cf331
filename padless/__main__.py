"""Run the command `padless` by `python -m padless`."""

import sys

from padless.cli import main

if __name__ == "__main__":
    sys.exit(main())
