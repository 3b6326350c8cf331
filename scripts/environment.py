"""Find the root of the repository, and an interpreter with the packages that a script needs."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def require_modules(*modules: str) -> None:
    """Restart the script with the interpreter in `.venv` if this one lacks a module; exit if that does not help."""
    if all(importlib.util.find_spec(module) for module in modules):
        return
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists() or Path(sys.prefix) == python.parent.parent:
        sys.exit(f"{sys.executable} lacks at least one of the modules {', '.join(modules)}. Run `scripts/setup test` first.")
    os.execv(python, [str(python), *sys.argv])
