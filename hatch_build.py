"""Build the compiled kernels of padless next to their C sources, once for each level of processor.

pip runs this file when it builds or installs the package. To run it by hand: `python hatch_build.py`. Without a C compiler
nothing is built and nothing fails; `padless.backends()` says which kernels exist. CC names the compiler, and
PADLESS_CFLAGS has further options, such as those of `scripts/sanitize`.
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
from typing import TypedDict

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object

KERNELS = Path(__file__).parent / "padless" / "kernels" / "native"
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
LEVELS = {"avx512": ("-march=x86-64-v4",), "avx2": ("-march=x86-64-v3",), "default": ()}  # torch's names for processors


class BuildData(TypedDict):
    """The parts of hatchling's build data that the hook changes."""

    pure_python: bool
    tag: str
    artifacts: list[str]


def build(folder: Path = KERNELS) -> list[Path]:
    """Build the library of each level that this machine can compile for.

    Args:
        folder: The folder of the C sources; the libraries are written there.

    Returns:
        The libraries that were built. The reasons why others were not are printed to stderr.
    """
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.[ch]")))
    source_hash = hashlib.sha256(sources).hexdigest()[:16]  # a library of other sources is not loaded
    is_x86_64 = platform.machine().lower() in ("x86_64", "amd64")
    libraries = []
    for level in LEVELS if is_x86_64 else ("default",):
        library = folder / f"_padless_native.{level}.so"
        try:
            _compile(folder, LEVELS[level], source_hash, library)
            libraries.append(library)
        except subprocess.CalledProcessError as error:
            print(f"padless: no compiled kernel for {level}: {error.stderr or error}", file=sys.stderr)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"padless: no compiled kernel for {level}: {error}", file=sys.stderr)
    return libraries


def _compile(folder: Path, level_flags: tuple[str, ...], source_hash: str, library: Path) -> None:
    """Compile the sources to a library that appears whole or not at all; a library of older sources is deleted."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    partial = library.with_suffix(f".{os.getpid()}")
    more_flags = shlex.split(os.environ.get("PADLESS_CFLAGS") or "")
    options = [*FLAGS, *level_flags, *more_flags, f'-DSOURCE="{source_hash}"', "-o", str(partial)]
    library.unlink(missing_ok=True)
    try:
        command = [*compiler, *options, *map(str, sorted(folder.glob("*.c")))]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        partial.replace(library)
    finally:
        partial.unlink(missing_ok=True)


class CustomBuildHook(BuildHookInterface):
    """Put the libraries into the wheel, which is then a wheel for this kind of machine."""

    def initialize(self, version: str, build_data: BuildData) -> None:
        """Build the libraries; hatchling calls this before it collects the files."""
        if self.target_name != "wheel" or os.environ.get("PADLESS_NO_COMPILER"):
            return
        libraries = build()
        if libraries and version != "editable":
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{system}"
            build_data["artifacts"] += [str(library.relative_to(Path(self.root))) for library in libraries]


if __name__ == "__main__":
    for library in build():
        print(library)
