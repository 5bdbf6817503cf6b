"""Files and directories that are replaced whole: a crash leaves the old one or the new, never half."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# For C libraries without a wrapper.
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A directory that is replaced again and again while it is read is given up on.
_READ_ATTEMPTS = 10

T = TypeVar("T")


class ReplacedError(OSError):
    """A directory was replaced while it was read; reading it again finds the new one whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ESTALE, f"{path} was replaced while it was being read; open it again")


def identity(file: Path) -> tuple[int, ...]:
    """Tells a file from one that takes its place; () where there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    # The times too: a new directory may get the inode of one that was removed.
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def read_unreplaced(description: Path, read: Callable[[], T], *, known: tuple[int, ...] | None = None) -> T:
    """``read()`` of a directory that may be replaced meanwhile, so that all of it comes from one writer.

    Args:
        description: the directory's file that says what it is.
        read: reads from the directory; called again if it was replaced meanwhile.
        known: the :func:`identity` that the description must have; any when None.

    Raises:
        ReplacedError: it is not the known directory any more, or was replaced at every attempt.
    """
    for _ in range(_READ_ATTEMPTS if known is None else 1):
        before = identity(description) if known is None else known
        try:
            value = read()
        except (ValueError, OSError):
            # An error of a directory that is being replaced says nothing about the one that took its place.
            if identity(description) == before:
                raise
        else:
            if identity(description) == before:
                return value
    raise ReplacedError(description.parent)


@contextmanager
def replace_directory(target: Path | str, *, holding: str | None = None) -> Iterator[Path]:
    """Yields an empty temporary directory beside ``target`` that takes its place on success.

    On success every file and directory is fsynced and one rename puts the new directory in place (an exchange
    where ``target`` exists). On any error the temporary is removed and ``target`` is as it was. Temporaries
    that killed processes left are removed at the next write to the same target. A symbolic link is followed.

    Args:
        target: the directory to create or replace; missing parents are made.
        holding: the name of a file that an existing, non-empty ``target`` must hold to be replaced, so that
            a mistyped path cannot wipe somebody's directory.

    Raises:
        FileExistsError: ``target`` exists and does not hold ``holding``.
        NotADirectoryError: ``target`` is a file.
        OSError: the disk is full (ENOSPC, EDQUOT, EFBIG), or the file system cannot exchange directories.
    """
    target = _resolved(target)
    if target.exists():
        if not target.is_dir():
            raise NotADirectoryError(f"{target} is a file; choose another path or remove it")
        if holding is not None and any(target.iterdir()) and not (target / holding).is_file():
            raise FileExistsError(
                f"{target} exists and is not ours to replace (it holds no {holding}); "
                "choose another path or remove it first"
            )
    _make_parents(target)
    _remove_leftovers(target)
    with _errors_named(target):
        temporary, lock = _locked_temporary(target, directory=True, probe=target.exists())
        try:
            yield temporary
            _sync_tree(temporary)
            _put_in_place(temporary, target)
            _sync(target.parent)
        finally:
            # After an exchange this is the old directory; after a plain rename nothing is left.
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)


@contextmanager
def replace_file(target: Path | str) -> Iterator[Path]:
    """Yields the path of an empty temporary file beside ``target`` that takes its place on success.

    The same promises as :func:`replace_directory`.

    Raises:
        IsADirectoryError: ``target`` is a directory.
        FileExistsError: ``target`` is a device or a pipe.
        OSError: the disk is full (ENOSPC, EDQUOT, EFBIG).
    """
    target = _resolved(target)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a directory; choose another path")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target} is not a regular file and cannot be replaced; choose another path")
    _make_parents(target)
    _remove_leftovers(target)
    with _errors_named(target):
        temporary, lock = _locked_temporary(target, directory=False)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            os.close(lock)


def _resolved(target: Path | str) -> Path:
    path = Path(os.path.realpath(target))
    if not path.name:
        raise ValueError(f"{target} cannot be replaced; give a path below the root")
    return path


@contextmanager
def _errors_named(target: Path) -> Iterator[None]:
    """Turns a full disk into a message that says what was being written and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        kept = "; what was there is unchanged" if target.exists() else ""
        raise OSError(
            error.errno,
            f"{error.strerror or os.strerror(error.errno)} while writing {target}{kept}; "
            "free space there or choose another path",
        ) from error


def _locked_temporary(target: Path, *, directory: bool, probe: bool = False) -> tuple[Path, int]:
    """A new temporary and a descriptor that holds its lock, which tells others that its writer is alive."""
    while True:
        temporary = target.parent / f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
        if directory:
            temporary.mkdir()
            if probe:
                _probe_exchange(temporary, target)
            descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        else:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: the process id in the name has to do
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A cleaner may have taken it for a leftover before the lock was ours.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(temporary), os.fstat(descriptor)):
                return temporary, descriptor
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Removes temporaries of this target whose writer is gone."""
    pattern = re.compile(re.escape(f".{target.name}.tmp-") + r"(\d+)-[0-9a-f]+(-probe)?")
    for entry in list(target.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match is None:
            continue
        try:
            descriptor = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone, or not ours
        try:
            if _abandoned(descriptor, int(match[1])):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _abandoned(descriptor: int, process: int) -> bool:
    """Whether nobody holds the temporary's lock; where there are no locks, whether its process is gone."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not _alive(process)
    return True


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _put_in_place(temporary: Path, target: Path) -> None:
    while True:
        try:
            if target.exists():
                _exchange(temporary, target)
            else:
                os.rename(temporary, target)
            return
        except FileNotFoundError:
            if not temporary.exists():
                raise
        except OSError as error:
            # Another writer put a directory there since we looked: exchange with that one.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def _probe_exchange(temporary: Path, target: Path) -> None:
    """Finds out before the work, not after it, that directories cannot be exchanged here."""
    other = temporary.with_name(temporary.name + "-probe")
    try:
        other.mkdir()
        _exchange(temporary, other)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(
                error.errno,
                f"{target} exists and its file system cannot exchange two directories (renameat2: "
                f"{os.strerror(error.errno)}); remove it first, choose a new path, or use a file system "
                "that can (ext4, xfs, btrfs, tmpfs)",
            ) from error
        raise
    finally:
        shutil.rmtree(other, ignore_errors=True)


def _exchange(first: Path, second: Path) -> None:
    """Exchanges two directory entries in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if hasattr(libc, "renameat2"):
        result = libc.renameat2(*paths)
    elif platform.machine() in _SYS_RENAMEAT2:
        result = libc.syscall(_SYS_RENAMEAT2[platform.machine()], *paths)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def _make_parents(target: Path) -> None:
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in missing:
        _sync(parent.parent)


def _sync_tree(directory: Path) -> None:
    for folder, _, files in os.walk(directory):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
