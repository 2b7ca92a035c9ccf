"""PostgreSQL for Airflow's metadata, on a Unix socket: it refuses to run as root, and is then the user `postgres`.

That user need not be able to enter the checkout: its folder is bound onto /var/lib/postgresql in a mount namespace of
its own, and the checkout's path is never walked.
"""

import os
import pwd
import shlex
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from tests.stack.errors import StackError
from tests.stack.layout import STATE
from tests.stack.processes import Process, environment, recorded, spawn, wait_until
from tests.stack.tls import new_secret, write_secret

USER = "airflow"
DATABASE = "airflow"

_FOLDER = STATE / "postgres"
_PASSWORD_FILE = _FOLDER / "password"
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": 200,
    # Nothing that it stores outlives the stack.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # In the data folder rather than in the host's /dev/shm, where a killed server would leave it.
    "dynamic_shared_memory_type": "mmap",
}


def url(database: str = DATABASE) -> str:
    """A database's address for SQLAlchemy."""
    return f"postgresql+psycopg2://{USER}:{_PASSWORD_FILE.read_text()}@/{database}?host={quote(str(_FOLDER))}"


def start() -> Process:
    """Make a new cluster of databases and start its server."""
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    write_secret(_PASSWORD_FILE, new_secret())
    if _is_root():
        account = pwd.getpwnam("postgres")
        for path in (_FOLDER, _PASSWORD_FILE):
            os.chown(path, account.pw_uid, account.pw_gid)
    home = Path("/var/lib/postgresql") if _is_root() else _FOLDER
    login = (f"--username={USER}", f"--pwfile={home / 'password'}", "--auth=scram-sha-256")
    _run(_server("initdb", *login, f"--pgdata={home}/data", "--no-sync", "--locale=C.UTF-8"))
    (_FOLDER / "data" / "pg_hba.conf").write_text(f"local all {USER} scram-sha-256\n")
    return resume()


def resume() -> Process:
    """Start the server on the databases that are there."""
    home = Path("/var/lib/postgresql") if _is_root() else _FOLDER
    options = [f"-c{name}={value}" for name, value in {**_SETTINGS, "unix_socket_directories": home}.items()]
    return spawn("postgres", _server("postgres", "-D", f"{home}/data", *options))


def stop() -> None:
    """End the server so that it removes what it keeps in the kernel, which outlives a process that is killed."""
    server = recorded().get("postgres")
    if server and server.alive():
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGQUIT)
        wait_until(lambda: not server.alive(), seconds=5)


def ready() -> bool:
    """Whether it answers, and has Airflow's database."""
    try:
        query("SELECT 1", database="postgres")
    except StackError:
        return False
    if query("SELECT datname FROM pg_database WHERE datname = 'airflow'", database="postgres") != DATABASE:
        query(f"CREATE DATABASE {DATABASE}", database="postgres")
    return True


def query(sql: str, database: str = DATABASE) -> str:
    """Run one statement and give its single value as text."""
    argv = [_program("psql"), "--no-psqlrc", "--tuples-only", "--no-align", "--quiet", f"--command={sql}"]
    where = {"PGHOST": str(_FOLDER), "PGUSER": USER, "PGDATABASE": database, "PGPASSWORD": _PASSWORD_FILE.read_text()}
    return _run(argv, environment(where | {"PGCONNECT_TIMEOUT": "2"})).strip()


def _run(argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, env=env or environment(), check=False)
    if done.returncode:
        raise StackError(f"PostgreSQL: {done.stderr.strip()}")
    return done.stdout


def _server(program: str, *arguments: str) -> list[str]:
    """A command of the server's side, as a user who is not root."""
    argv = [_program(program), *arguments]
    if not _is_root():
        return argv
    private = f"mount --bind {shlex.quote(str(_FOLDER))} /var/lib/postgresql"
    user = "exec setpriv --reuid=postgres --regid=postgres --init-groups"
    return ["unshare", "--mount", "--ipc", "sh", "-ec", f'{private}; {user} "$@"', "sh", *argv]


def _program(name: str) -> str:
    """The program itself: what Debian puts into PATH is a Perl script, too slow to poll with."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if not found:
        raise StackError(f"Debian's package `postgresql` brought no {name}: reinstall it.")
    return str(found[-1])


def _is_root() -> bool:
    return os.geteuid() == 0
