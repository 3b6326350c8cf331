"""Where the repository is, and the interpreter that has what a script needs: this one, or the one of scripts/setup."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def enter(*modules: str) -> None:
    """Go on in an interpreter that has these modules; without one, say how to get it."""
    if all(importlib.util.find_spec(module) for module in modules):
        return
    own = ROOT / ".venv" / "bin" / "python"
    if not own.exists() or Path(sys.prefix) == own.parent.parent:
        sys.exit(f"{sys.executable} has not all of {', '.join(modules)}. Run scripts/setup test first.")
    os.execv(own, [str(own), *sys.argv])
