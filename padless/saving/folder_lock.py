"""A lock of a folder: one process at a time writes to it.

The system holds the lock for an open file, and releases it when the process ends, in any way. So a file that a killed
process has left does not lock the folder. The file names the process, for the error message of the others.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import warnings
import weakref
from pathlib import Path

from padless.errors import NotWritten

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FILE_NAME = ".lock"
_LOCKED_BYTE = 2**20  # on Windows a byte is locked, which must not be one of the text
_held_locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()


class FolderLock:
    """The lock of a folder, held from `acquire` to `release`.

    Args:
        folder: The folder, which must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock, at once or not at all.

        Raises:
            NotWritten: Another training holds the lock, or the file cannot be written.
        """
        self.release()
        while self._handle is None:
            try:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise NotWritten(
                    error.errno, f"{error.strerror or error}; the folder cannot be locked", os.fspath(self.path)
                ) from error
            try:
                self._lock(handle)
                if self._is_current(handle):  # else the holder has just deleted the file
                    self._handle, handle = handle, None
            finally:
                if handle is not None:
                    os.close(handle)
        _held_locks.add(self)
        os.truncate(self._handle, 0)
        os.write(self._handle, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())

    def release(self) -> None:
        """Unlock the folder, and delete the file. Nothing happens if the lock is not held."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        _held_locks.discard(self)
        if sys.platform != "win32" and self._is_current(handle):  # while it is locked, so that no other lock is deleted
            self.path.unlink(missing_ok=True)
        os.close(handle)
        if sys.platform == "win32":
            self.path.unlink(missing_ok=True)

    def close_in_child(self) -> None:
        """Close the file in a process that was forked, which would hold the lock after its parent has ended."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _lock(self, handle: int) -> None:
        try:
            if sys.platform == "win32":
                os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
                os.lseek(handle, 0, os.SEEK_SET)
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                message = f"{os.fspath(self.path.parent)!r} cannot be locked on this file system. Start one training there."
                warnings.warn(message, stacklevel=2)
                return
            message = f"another training writes to this folder: {self._holder(handle)}. Choose another folder"
            raise NotWritten(errno.EBUSY, message, os.fspath(self.path.parent)) from error

    def _holder(self, handle: int) -> str:
        """Return the process that holds the lock, in words."""
        os.lseek(handle, 0, os.SEEK_SET)
        try:
            holder = json.loads(os.read(handle, 4096))
            return f"process {int(holder['pid'])} on host {holder['host']!r:.100}"
        except (ValueError, KeyError, TypeError):  # it has not written its name yet
            return "a process that has just started"

    def _is_current(self, handle: int) -> bool:
        """Return whether the path still leads to the open file."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(handle))
        except FileNotFoundError:
            return False


def _close_in_child() -> None:
    for lock in list(_held_locks):
        lock.close_in_child()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_in_child)
