"""`scripts/setup` makes the environment, and does not touch the environment of another checkout."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_linked_environment_is_not_deleted(tmp_path):
    """`python -m venv --clear` would empty the folder to which the link points."""
    checkout, environment = tmp_path / "checkout", tmp_path / "environment"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", checkout / "scripts" / "setup")
    environment.mkdir()
    (environment / "file").write_text("kept")
    (checkout / ".venv").symlink_to(environment)
    done = subprocess.run([checkout / "scripts" / "setup", "test"], capture_output=True, text=True)
    assert done.returncode == 1 and "is a link to another environment" in done.stderr
    assert (environment / "file").read_text() == "kept"
