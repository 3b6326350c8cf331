"""Builds the compiled kernels of padless beside their source: once for each kind of processor, if there is a C compiler.

pip runs it while it builds or installs the package; `python hatch_build.py` runs it by hand. Without a compiler nothing
is built and nothing fails: `padless.backends()` tells what is there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object

KERNELS = Path(__file__).parent / "padless" / "kernels" / "native"
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
LEVELS = {"avx512": ("-march=x86-64-v4",), "avx2": ("-march=x86-64-v3",), "default": ()}  # what torch calls them


def build(where: Path = KERNELS) -> list[Path]:
    """The libraries that could be built, and on stderr why one could not."""
    sources = sorted(where.glob("*.c"))
    texts = b"".join(path.read_bytes() for path in sorted(where.glob("*.[ch]")))
    mark = hashlib.sha256(texts).hexdigest()[:16]  # so that a library of other sources is not taken for this one
    compiler = shlex.split(os.environ.get("CC") or "cc")
    intel = platform.machine().lower() in ("x86_64", "amd64")
    built = []
    for level in LEVELS if intel else ("default",):
        library = where / f"_padless_native.{level}.so"
        part = library.with_suffix(f".{os.getpid()}")
        command = [*compiler, *FLAGS, *LEVELS[level], f'-DSOURCE="{mark}"', "-o", str(part), *map(str, sources)]
        try:
            library.unlink(missing_ok=True)
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            part.replace(library)
            built.append(library)
        except (OSError, subprocess.SubprocessError) as why:
            said = getattr(why, "stderr", None) or why
            print(f"padless: no compiled kernel for {level}: {said}", file=sys.stderr)
        finally:
            if part.exists():
                part.unlink()
    return built


class CustomBuildHook(BuildHookInterface):
    """Puts the libraries into the wheel, which is then one for this kind of machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files."""
        if self.target_name != "wheel" or os.environ.get("PADLESS_NO_COMPILER"):
            return
        libraries = build()
        if libraries and version != "editable":
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{system}"
            build_data["artifacts"] += [str(library.relative_to(Path(self.root))) for library in libraries]


if __name__ == "__main__":
    for path in build():
        print(path)
