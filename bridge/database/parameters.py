"""Connection strings as libpq reads them, for both drivers.

Commands connect with psycopg, and so with libpq. The daemon uses asyncpg, which knows only some of
libpq's parameters and would send the others to the server as settings. This module gives asyncpg
those it knows and applies the others itself. Sources:
https://www.postgresql.org/docs/18/libpq-connect.html and asyncpg's ``connect_utils``.
"""

import os
import random
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bridge.database.verified_names import verifying

#: Seconds to connect, unless the string says ``connect_timeout``.
CONNECT_SECONDS: Final = 10
#: Set unless the string says otherwise: a peer that vanished without a word is noticed within about
#: 15 s when nothing is sent, and within 12 s (in milliseconds) when something is.
_KEEPALIVES: Final[Mapping[str, int]] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 12_000,
}
#: What asyncpg reads from its DSN, apart from hosts and ports.
_OF_ASYNCPG: Final = (
    *("dbname", "user", "password", "passfile", "options", "target_session_attrs"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
)
#: Demands on the server that asyncpg cannot make; a connection of libpq does, once, at the start.
_DEMANDS: Final = ("channel_binding", "require_auth", "sslcertmode", "requirepeer")


class ParameterError(psycopg.ProgrammingError):
    """A connection string that cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What asyncpg needs to connect.

    Attributes:
        dsn: the connection string, with the parameters that asyncpg knows.
        connect_seconds: how long connecting may take.
        socket_options: option of TCP or of the socket, as level and name, to value.
        has_demands: whether ``check_demands`` must be called.
        tls: how to encrypt, if the string names both addresses and the names to verify there.
    """

    dsn: str
    connect_seconds: float
    socket_options: Mapping[tuple[int, int], int]
    has_demands: bool
    tls: ssl.SSLContext | None = None

    def apply_to(self, connected: socket.socket) -> None:
        """Set the options of a connection; sockets of this machine's own files have none."""
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            for (level, name), value in self.socket_options.items():
                with suppress(OSError):  # not on this platform
                    connected.setsockopt(level, name, value)


def for_libpq(url: str) -> str:
    """Return the connection string with our defaults for what it does not say."""
    given = _given(url)
    unsaid = {name: value for name, value in _defaults().items() if name not in given}
    return make_conninfo(url, **unsaid)


def for_asyncpg(url: str) -> Parameters:
    """Return how asyncpg connects as libpq would.

    Raises:
        ParameterError: libpq rejects the string, or asyncpg cannot do what it says.
    """
    given = {**_defaults(), **_given(url)}
    if given.get("gssencmode") == "require":
        raise ParameterError("gssencmode=require: the bridge cannot encrypt with GSSAPI; use TLS")
    hosts, ports = _hosts(given)
    known = {name: given[name] for name in _OF_ASYNCPG if given.get(name)}
    if hosts:
        known |= {"host": ",".join(hosts), "port": ",".join(ports)}
    elif given.get("port"):
        known["port"] = given["port"]
    seconds = _number(given, "connect_timeout")
    return Parameters(
        dsn=f"postgresql://?{urlencode(known)}",
        # To libpq, 1 means 2, and 0 no limit, which is of no use to a daemon that tries again.
        connect_seconds=max(2, seconds) if seconds > 0 else CONNECT_SECONDS,
        socket_options=_socket_options(given),
        has_demands=any(given.get(name) not in (None, "", "prefer") for name in _DEMANDS),
        tls=_tls(given),
    )


def check_demands(url: str) -> None:
    """Connect with libpq, which fails if the server does not do what the string demands.

    Raises:
        psycopg.Error: it does not.
    """
    psycopg.connect(for_libpq(url), autocommit=True).close()


def _given(url: str) -> dict[str, str]:
    """Return what the string, its service and the environment say, in this order of precedence."""
    try:
        said = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError as error:
        raise ParameterError(" ".join(str(error).split())) from None
    service, file = said.pop("service", None), said.pop("servicefile", None)
    if service is None and "PGSERVICE" not in os.environ:
        return _of_environment() | said
    with _environment(PGSERVICE=service, PGSERVICEFILE=file):
        return _of_service() | said


def _of_environment() -> dict[str, str]:
    return {
        option.keyword.decode(): os.environ[option.envvar.decode()]
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.envvar.decode() in os.environ
    }


def _of_service() -> dict[str, str]:
    """Return what the service that the environment names and the environment say.

    Raises:
        ParameterError: there is no such service, or its file is invalid.
    """
    # libpq reports an invalid service before it looks for a server, which is not in this directory.
    attempt = pq.PGconn.connect_start(b"host=/nonexistent")
    message = " ".join(attempt.get_error_message().split())
    attempt.finish()
    if "service" in message:
        raise ParameterError(message)
    return {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val not in (None, option.compiled) and option.keyword != b"service"
    }


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    """Set the variables that are not None, and restore them at the end."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _defaults() -> dict[str, str]:
    numbers = {"connect_timeout": CONNECT_SECONDS, **_KEEPALIVES}
    return {name: str(value) for name, value in numbers.items()}


def _named_addresses(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each host's name and address, in the given order; either may be missing.

    Raises:
        ParameterError: there are more of the one than of the other.
    """
    names, addresses = (
        given[name].split(",") if given.get(name) else [] for name in ("host", "hostaddr")
    )
    if names and addresses and len(names) != len(addresses):
        raise ParameterError(
            f"could not match {len(names)} host names to {len(addresses)} hostaddr values"
        )
    count = len(names or addresses)
    return list(zip(names or [""] * count, addresses or [""] * count, strict=True))


def _hosts(given: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return hosts and ports, in the order in which to try them."""
    found = [address or name for name, address in _named_addresses(given)]
    hosts = [f"[{host}]" if ":" in host else host for host in found]
    ports = (given.get("port") or "5432").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    pairs = list(zip(hosts, (port or "5432" for port in ports), strict=False))
    if given.get("load_balance_hosts") == "random":
        random.shuffle(pairs)
    return [host for host, _ in pairs], [port for _, port in pairs]


def _tls(given: Mapping[str, str]) -> ssl.SSLContext | None:
    """Return a context that expects the hosts' names at their addresses, if that is demanded.

    Raises:
        ParameterError: an address has no name, or two, or the TLS parameters are invalid.
    """
    pairs = [(name, address) for name, address in _named_addresses(given) if address]
    if not pairs or given.get("sslmode") != "verify-full":
        return None
    names: dict[str, str] = {}
    for name, address in pairs:
        if not name:
            raise ParameterError("host name must be specified for a verified SSL connection")
        if names.setdefault(address, name) != name:
            raise ParameterError(f"hostaddr {address} has two names in host; the bridge needs one")
    try:
        return verifying(names, given)
    except (OSError, ValueError) as error:
        raise ParameterError(f"sslmode=verify-full: {error}") from None


def _number(given: Mapping[str, str], name: str) -> int:
    try:
        return int(given[name])
    except ValueError:
        raise ParameterError(f'invalid integer value "{given[name]}" for "{name}"') from None


def _socket_options(given: Mapping[str, str]) -> dict[tuple[int, int], int]:
    options = {(socket.SOL_SOCKET, socket.SO_KEEPALIVE): int(_number(given, "keepalives") != 0)}
    for name, parameter in (
        ("TCP_KEEPIDLE", "keepalives_idle"),
        ("TCP_KEEPINTVL", "keepalives_interval"),
        ("TCP_KEEPCNT", "keepalives_count"),
        ("TCP_USER_TIMEOUT", "tcp_user_timeout"),
    ):
        # 0 means the system's default.
        if hasattr(socket, name) and (value := _number(given, parameter)) > 0:
            options[socket.IPPROTO_TCP, getattr(socket, name)] = value
    return options
