"""PostgreSQL for Airflow's metadata, as the user `postgres`, for it refuses to run as root.

That user need not be able to enter the checkout: the data folder is bound onto /var/lib/postgresql in the stack's own
mount namespace, and the checkout's path is never walked.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.stack.errors import StackError
from tests.stack.layout import ADDRESS, STATE
from tests.stack.network import inside
from tests.stack.processes import Process, environment, spawn
from tests.stack.tls import new_secret, write_secret

PORT = 5432
USER = "airflow"
DATABASE = "airflow"

_DATA = "/var/lib/postgresql/data"
_PASSWORD_FILE = STATE / "postgres" / "password"
_SETTINGS = {
    "listen_addresses": ADDRESS,
    "port": PORT,
    "unix_socket_directories": "",
    "max_connections": 200,
    # Nothing that it stores outlives the stack.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # In the data folder rather than in the host's /dev/shm, where a killed server would leave it.
    "dynamic_shared_memory_type": "mmap",
}


def password() -> str:
    """The password of Airflow's database user."""
    return _PASSWORD_FILE.read_text()


def start() -> Process:
    """Make a new cluster of databases and start its server."""
    write_secret(_PASSWORD_FILE, new_secret())
    for path in (_PASSWORD_FILE.parent, _PASSWORD_FILE):
        os.chown(path, *_postgres_ids())
    login = (f"--username={USER}", f"--pwfile={_inside(_PASSWORD_FILE)}", "--auth=scram-sha-256")
    _run(_as_postgres("initdb", *login, f"--pgdata={_DATA}", "--no-sync", "--locale=C.UTF-8"))
    (_PASSWORD_FILE.parent / "data" / "pg_hba.conf").write_text(f"host all {USER} {ADDRESS}/30 scram-sha-256\n")
    options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
    return spawn("postgres", _as_postgres("postgres", "-D", _DATA, *options))


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
    where = {"PGHOST": ADDRESS, "PGPORT": str(PORT), "PGUSER": USER, "PGPASSWORD": password(), "PGDATABASE": database}
    return _run(argv, environment(where | {"PGCONNECT_TIMEOUT": "2"})).strip()


def _run(argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, env=env or environment(), check=False)
    if done.returncode:
        raise StackError(f"PostgreSQL: {done.stderr.strip()}")
    return done.stdout


def _as_postgres(program: str, *arguments: str) -> list[str]:
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    return inside([*user, _program(program), *arguments])


def _program(name: str) -> str:
    """The program itself: what Debian puts into PATH is a Perl script, too slow to poll with."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if not found:
        raise StackError(f"Debian's package `postgresql` brought no {name}: reinstall it.")
    return str(found[-1])


def _postgres_ids() -> tuple[int, int]:
    account = pwd.getpwnam("postgres")
    return account.pw_uid, account.pw_gid


def _inside(path: Path) -> Path:
    return Path("/var/lib/postgresql") / path.relative_to(STATE / "postgres")
