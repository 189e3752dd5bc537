"""Secrets of webhooks: how they are made, what may be one, and how they are stored."""

import base64
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

#: Prefix of a secret whose rest is the key in base64, by Standard Webhooks.
PREFIX: Final = "whsec_"
#: Prefix of a secret that is stored encrypted; the rest is a Fernet token.
SEALED: Final = "fernet:"

#: Bytes of a key, by Standard Webhooks: at least, at most, and of one that is made here.
SHORTEST_KEY, LONGEST_KEY, NEW_KEY = 24, 64, 32
#: Secrets that a vault keeps open, so that a delivery need not decrypt: a few hundred bytes each.
#: With more webhooks than this, those that are delivered to most rarely are decrypted each time.
KEPT_OPEN = 4096


class SecretError(Exception):
    """A stored secret cannot be opened. The message says why, in one line, and never shows it."""


def new_secret() -> str:
    """Return a fresh secret: ``whsec_`` and 256 random bits in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_KEY)).decode()


def secret_problem(secret: str) -> str | None:
    """Return why this text cannot be a webhook's secret, or None if it can.

    Any text is a secret, but for two kinds that would be taken for something else: what begins as
    a key of Standard Webhooks and is none, and what begins as an encrypted secret.
    """
    if secret.startswith(SEALED):
        return f"must not begin with {SEALED}, which marks what is stored encrypted"
    if secret.startswith(PREFIX) and not _is_key(secret.removeprefix(PREFIX)):
        return (
            f"begins with {PREFIX}, so the rest must be "
            f"{SHORTEST_KEY} to {LONGEST_KEY} bytes in base64, with its padding"
        )
    return None


def is_sealed(stored: str) -> bool:
    """Return whether a secret is stored encrypted."""
    return stored.startswith(SEALED)


class Vault:
    """Seals secrets before they are stored, and opens them again.

    Args:
        keys: each 32 bytes in URL-safe base64. The first one seals, all of them open. Without any,
            secrets are stored as they are.

    Raises:
        ValueError: one of them is no such key.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._fernets = [Fernet(key) for key in keys]
        # The cache is this vault's own, and is gone with it and its keys.
        self._open_sealed = lru_cache(KEPT_OPEN)(self._decrypt)

    def __repr__(self) -> str:
        return f"<Vault with {len(self._fernets)} keys>"

    @property
    def encrypts(self) -> bool:
        """Whether there is a key."""
        return bool(self._fernets)

    def seal(self, secret: str) -> str:
        """Return the text to store a secret as: another one each time, where there is a key."""
        if not self._fernets:
            return secret
        return SEALED + self._fernets[0].encrypt(secret.encode()).decode()

    def open(self, stored: str) -> str:
        """Return the secret that was stored as this text, encrypted or not.

        Raises:
            SecretError: there is no key, or none that it was sealed with.
        """
        return self._open_sealed(stored) if is_sealed(stored) else stored

    def is_current(self, stored: str) -> bool:
        """Return whether this is how ``seal`` would store it: by the first key, if there is one."""
        if not (self._fernets and is_sealed(stored)):
            return not (self._fernets or is_sealed(stored))
        return _decrypted(self._fernets[0], stored) is not None

    def reseal(self, stored: str) -> str:
        """Return the text to store instead: the same if it is current, else sealed anew.

        Raises:
            SecretError: there is no key, or none that it was sealed with.
        """
        return stored if self.is_current(stored) else self.seal(self.open(stored))

    def _decrypt(self, stored: str) -> str:
        if not self._fernets:
            raise SecretError("the secret is encrypted, and BRIDGE_SECRET_KEY is not set")
        secret = _decrypted(MultiFernet(self._fernets), stored)
        if secret is None:
            raise SecretError("no key in BRIDGE_SECRET_KEY opens the secret")
        return secret


def _decrypted(fernet: Fernet | MultiFernet, stored: str) -> str | None:
    """Return the secret in a sealed text, or None if it is not by this key, or garbage."""
    try:
        return fernet.decrypt(stored.removeprefix(SEALED)).decode()
    except (InvalidToken, ValueError):  # the latter: what is no ASCII, or no UTF-8 inside
        return None


def _is_key(encoded: str) -> bool:
    """Return whether this is what the libraries of Standard Webhooks decode, strict ones too."""
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return False
    return SHORTEST_KEY <= len(key) <= LONGEST_KEY and base64.b64encode(key).decode() == encoded
