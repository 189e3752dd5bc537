"""TLS that verifies the name of a server that is reached by its address.

libpq connects to ``hostaddr`` and, with ``sslmode=verify-full``, expects ``host`` in the server's
certificate. asyncpg knows one host and expects that. Here, the TLS context replaces the address by
the name, and follows the rules of libpq for its files:
https://www.postgresql.org/docs/18/libpq-ssl.html.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_VERSIONS: Final = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}


class _NamingContext(ssl.SSLContext):
    """A context that expects the name which belongs to an address."""

    names: Mapping[str, str]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Do as ``SSLContext.wrap_bio``, which asyncio uses for every connection."""
        if isinstance(server_hostname, str):
            # A host that was given without an address keeps its own name.
            server_hostname = self.names.get(server_hostname, server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def verifying(names: Mapping[str, str], given: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context for ``sslmode=verify-full``.

    Args:
        names: the name to expect, by the address that asyncpg connects to.
        given: parameters of libpq.

    Raises:
        OSError: a file is missing or invalid.
        ValueError: a TLS version is unknown.
    """
    context = _NamingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.names = names
    root = given.get("sslrootcert") or _own("root.crt")
    if root == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=root)
    revoked = given.get("sslcrl") or _own("root.crl")
    if given.get("sslcrl") or Path(revoked).exists():
        context.load_verify_locations(cafile=revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    certificate = given.get("sslcert") or _own("postgresql.crt")
    if given.get("sslcert") or Path(certificate).exists():
        key = given.get("sslkey") or _own("postgresql.key")
        context.load_cert_chain(
            certificate,
            key if given.get("sslkey") or Path(key).exists() else None,
            # Without a function, OpenSSL would ask at the terminal.
            lambda: given.get("sslpassword", ""),
        )
    context.minimum_version = _version(given, "ssl_min_protocol_version", ssl.TLSVersion.TLSv1_2)
    context.maximum_version = _version(
        given, "ssl_max_protocol_version", ssl.TLSVersion.MAXIMUM_SUPPORTED
    )
    context.set_alpn_protocols(["postgresql"])
    return context


def _own(file: str) -> str:
    """Return the path of one of the user's files."""
    return str(Path("~/.postgresql").expanduser() / file)


def _version(given: Mapping[str, Any], name: str, unsaid: ssl.TLSVersion) -> ssl.TLSVersion:
    said = given.get(name)
    if not said:
        return unsaid
    if said not in _VERSIONS:
        raise ValueError(f'invalid "{name}" value: "{said}"')
    return _VERSIONS[said]
