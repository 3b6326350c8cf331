"""`python -m padless` is the command `padless`."""

import sys

from padless.cli import main

if __name__ == "__main__":
    sys.exit(main())
