"""Webhook secrets: generation, validation and encryption at rest."""

import base64
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

#: Prefix of a Standard Webhooks secret; the rest is the key in base64.
PREFIX: Final = "whsec_"
#: Prefix of an encrypted secret; the rest is a Fernet token.
SEALED: Final = "fernet:"

#: Key lengths in bytes: the limits of Standard Webhooks, and the length of generated keys.
SHORTEST_KEY, LONGEST_KEY, NEW_KEY = 24, 64, 32
#: Length in bytes of the keys that encrypt secrets.
VAULT_KEY: Final = 32
#: Decrypted secrets that a vault caches, a few hundred bytes each, so that deliveries need not
#: decrypt. With more webhooks than this, the least used secrets are decrypted each time.
KEPT_OPEN = 4096


class SecretError(Exception):
    """A stored secret cannot be decrypted. The message is one line and never shows it."""


def new_secret() -> str:
    """Return a new secret: ``whsec_`` and 256 random bits in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_KEY)).decode()


def secret_problem(secret: str) -> str | None:
    """Return why a text cannot be a webhook secret, or None if it can.

    Any text is valid except two kinds that would be mistaken for something else: text that starts
    like a Standard Webhooks key and is not one, and text that starts like an encrypted secret.
    """
    if secret.startswith(SEALED):
        return f"must not begin with {SEALED}, the prefix of encrypted secrets"
    if secret.startswith(PREFIX) and not _is_key(secret.removeprefix(PREFIX)):
        return (
            f"begins with {PREFIX}, so the rest must be "
            f"{SHORTEST_KEY} to {LONGEST_KEY} bytes in base64 with padding"
        )
    return None


def url_safe_key(text: str) -> str:
    """Convert an encryption key in any alphabet of base64 to the form that a vault takes.

    Raises:
        ValueError: it is not a key of ``VAULT_KEY`` bytes. The message does not show it.
    """
    encoded = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) != VAULT_KEY:
        raise ValueError(
            f"must be {VAULT_KEY} bytes in base64; create a key: openssl rand -base64 {VAULT_KEY}"
        )
    return base64.urlsafe_b64encode(key).decode()


def is_sealed(stored: str) -> bool:
    """Return whether a secret is stored encrypted."""
    return stored.startswith(SEALED)


class Vault:
    """Encrypts secrets for storage and decrypts them.

    Args:
        keys: each 32 bytes in URL-safe base64. The first one encrypts, all of them decrypt. Without
            keys, secrets are stored in plain text.

    Raises:
        ValueError: a key is invalid.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._fernets = [Fernet(key) for key in keys]
        # Per vault, so the cache goes away together with the keys.
        self._open_sealed = lru_cache(KEPT_OPEN)(self._decrypt)

    def __repr__(self) -> str:
        return f"<Vault with {len(self._fernets)} keys>"

    @property
    def encrypts(self) -> bool:
        """Whether the vault has a key."""
        return bool(self._fernets)

    def seal(self, secret: str) -> str:
        """Return the text to store for a secret; with a key, it differs each time."""
        if not self._fernets:
            return secret
        return SEALED + self._fernets[0].encrypt(secret.encode()).decode()

    def open(self, stored: str) -> str:
        """Return the secret of a stored text, encrypted or not.

        Raises:
            SecretError: no key of this vault encrypted it.
        """
        return self._open_sealed(stored) if is_sealed(stored) else stored

    def is_current(self, stored: str) -> bool:
        """Return whether :meth:`seal` would use the same key, or none, for this stored text."""
        if not (self._fernets and is_sealed(stored)):
            return not (self._fernets or is_sealed(stored))
        return _decrypted(self._fernets[0], stored) is not None

    def reseal(self, stored: str) -> str:
        """Return the stored text encrypted with the first key; unchanged if it already is.

        Raises:
            SecretError: no key of this vault encrypted it.
        """
        return stored if self.is_current(stored) else self.seal(self.open(stored))

    def _decrypt(self, stored: str) -> str:
        if not self._fernets:
            raise SecretError("the secret is encrypted, but BRIDGE_SECRET_KEY is not set")
        secret = _decrypted(MultiFernet(self._fernets), stored)
        if secret is None:
            raise SecretError("no key in BRIDGE_SECRET_KEY decrypts the secret")
        return secret


def _decrypted(fernet: Fernet | MultiFernet, stored: str) -> str | None:
    """Return the secret of an encrypted text, or None if this key did not encrypt it."""
    try:
        return fernet.decrypt(stored.removeprefix(SEALED)).decode()
    except (InvalidToken, ValueError):  # ValueError: not ASCII, or not UTF-8 inside
        return None


def _is_key(encoded: str) -> bool:
    """Return whether every Standard Webhooks library, strict ones included, decodes this key."""
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return False
    return SHORTEST_KEY <= len(key) <= LONGEST_KEY and base64.b64encode(key).decode() == encoded
