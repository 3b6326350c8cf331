"""Where a file is written: through links, with the permissions of the file that was there, never to a device."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from padless.errors import NotWritten


def not_written(path: str | os.PathLike[str], error: OSError, advice: str) -> NotWritten:
    """Return the error for a file that could not be written, with the reason of the system."""
    return NotWritten(error.errno, f"{error.strerror or error}; {advice}", os.fspath(path))


def resolve_target(path: str | os.PathLike[str]) -> Path:
    """Return the path of the file to write: of a link, what the link leads to. The file need not exist.

    Raises:
        NotWritten: The path is a folder, a pipe, a device or a file that may not be written.

    Example:
        >>> resolve_target("/dev/null")
        Traceback (most recent call last):
        padless.errors.NotWritten: [Errno 22] it is a pipe or a device. Expected the path of a file: '/dev/null'
    """
    name = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
        if target.is_symlink():
            raise NotWritten(errno.ELOOP, "it is a link to itself. Choose another path", name) from None
        return target
    except OSError as error:
        raise not_written(path, error, "no file can be written there. Choose another path") from error
    except ValueError as error:
        raise NotWritten(errno.EINVAL, f"{error}; choose another name", name) from error
    if stat.S_ISDIR(mode):
        raise NotWritten(errno.EISDIR, "it is a folder. Expected the path of a file", name)
    if not stat.S_ISREG(mode):
        raise NotWritten(errno.EINVAL, "it is a pipe or a device. Expected the path of a file", name)
    if not os.access(path, os.W_OK):
        raise NotWritten(errno.EACCES, "Permission denied; the file is read-only. Choose another path", name)
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def create_temporary(target: Path) -> Path:
    """Create an empty file in the folder of `target`. Its permissions are those of the target, else those of new files."""
    mode = _mode(target)
    while True:
        path = target.parent / f".{target.name[:50]}.{secrets.token_hex(4)}"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode & 0o777))
            return path
        except FileExistsError:
            continue


def copy_permissions(target: Path, temporary: Path) -> None:
    """Give a temporary file the permissions of the target, if there is one, and its owner where the process may do so."""
    if not target.exists():
        return
    old, new = target.stat(), temporary.stat()
    if os.name == "posix" and (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid) and os.geteuid() == 0:
        os.chown(temporary, old.st_uid, old.st_gid)
    temporary.chmod(stat.S_IMODE(old.st_mode))


def _mode(target: Path) -> int | None:
    """Return the permissions of a file, None if it does not exist."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return None
