"""Locks of folders and files, so that only one process at a time writes to them."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of file systems that have no locks."""
_held: dict[str, tuple[int, int]] = {}
"""Lock files of this process, with the descriptor and the number of blocks that hold each."""
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, as the lock file records it."""

    pid: int
    host: str
    started: str | None
    """Start of the process (boot id and clock ticks), which tells a reused process id apart; None: unknown."""
    since: str
    command: str

    @classmethod
    def this_process(cls) -> Holder:
        """This process, from now on."""
        command = " ".join(["sail-rl" if "sail_rl" in sys.argv[0] else Path(sys.argv[0]).name, *sys.argv[1:3]])
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(os.getpid(), socket.gethostname(), process_start(os.getpid()), now, command)

    @property
    def is_here(self) -> bool:
        """True if the process was started on this host."""
        return self.host == socket.gethostname()

    @property
    def is_gone(self) -> bool:
        """True if the process was started on this host and has ended."""
        return self.is_here and (self.started is None or process_start(self.pid) != self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since}: {self.command})"


@contextmanager
def locked(file: Path, *, of: Path) -> Iterator[None]:
    """Hold the lock file `file` of `of` while the block runs; blocks of one process may nest.

    The lock is a POSIX record lock, which the kernel releases when the process ends in any way, and which forked
    children don't inherit. It holds between the machines of a network file system that supports such locks (NFS,
    Lustre with `flock`, GPFS). On a file system without locks, the recorded process decides.

    Args:
        file: the lock file. It is made, and deleted at the end of the block.
        of: what is locked, for messages.

    Raises:
        ValueError: if another process holds the lock, naming process and host; or if `file` can't be written.
    """
    name = os.path.realpath(file)
    with _guard:
        descriptor, blocks = _held[name] if name in _held else (_acquire(file, of), 0)
        _held[name] = descriptor, blocks + 1
    try:
        yield
    finally:
        with _guard:
            descriptor, blocks = _held.pop(name)
            if blocks > 1:
                _held[name] = descriptor, blocks - 1
            else:
                file.unlink(missing_ok=True)  # before the lock is released, see _is_current
                os.close(descriptor)


@contextmanager
def locked_output(path: Path) -> Iterator[None]:
    """Be the only process that makes this file or folder; the lock file `.NAME.lock` lies beside it (see `locked`)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path.parent} can't be made: {error.strerror}; give another path") from None
    with locked(path.with_name(f".{path.name}.lock"), of=path):
        yield


def process_start(pid: int) -> str | None:
    """Boot id and start of a running process in clock ticks; None if it has ended, or on systems without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else f"{boot} {fields[18]}"


def _acquire(file: Path, of: Path) -> int:
    """Return the locked file's descriptor."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ValueError(f"{of} can't be written: {error.strerror}; give another folder") from None
        try:
            _lock(descriptor, file, of)
            if _is_current(descriptor, file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(Holder.this_process())).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another process has deleted this file since it was opened


def _lock(descriptor: int, file: Path, of: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _recorded(descriptor)
        if error.errno in UNSUPPORTED:
            if holder and not holder.is_gone:
                raise ValueError(_refusal(holder, of) + f"; if that process has ended, delete {file}") from None
        elif error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(_refusal(holder, of)) from None
        else:
            raise ValueError(f"{of} can't be locked: {error.strerror}") from None
        return
    if (holder := _recorded(descriptor)) and holder.is_here:
        logger.info("%s: %s has ended without releasing its lock, which is taken over", of, holder)
    elif holder:
        logger.warning(
            "%s: %s has left its lock behind. If it still runs, this file system shares no locks between hosts: "
            "stop one of the two", of, holder
        )  # fmt: skip


def _refusal(holder: Holder | None, of: Path) -> str:
    return f"{of} is in use by {holder or 'another process'}; wait until it ends, stop it, or give another folder"


def _recorded(descriptor: int) -> Holder | None:
    """The holder that the file records; None if it records none, or if the record is being written."""
    try:
        return Holder(**json.loads(os.pread(descriptor, 65536, 0)))
    except (ValueError, TypeError):
        return None


def _is_current(descriptor: int, file: Path) -> bool:
    """True if `file` still is the opened file: a holder deletes it before it releases the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
