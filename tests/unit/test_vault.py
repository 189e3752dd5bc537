"""Webhook secrets: generation, validation and encryption."""

import base64

import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from bridge.access import vault as secrets
from bridge.access.vault import SecretError, Vault, new_secret, secret_problem

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


def whsec(size: int) -> str:
    return "whsec_" + base64.b64encode(b"k" * size).decode()


def complaint(vault: Vault, stored: str) -> str:
    with pytest.raises(SecretError) as raised:
        vault.open(stored)
    assert raised.value.__cause__ is raised.value.__context__ is None
    return str(raised.value)


# --- storage


@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_sealed_secret_is_unreadable_and_opens_again(secret: str) -> None:
    vault = Vault([NEW])
    stored = vault.seal(secret)
    assert stored.startswith("fernet:")
    assert stored.isascii()
    assert len(secret) < 4 or secret not in stored
    assert vault.open(stored) == secret


def test_sealing_twice_gives_different_texts() -> None:
    vault = Vault([NEW])
    assert vault.seal("s3cret") != vault.seal("s3cret")


def test_without_a_key_secrets_are_stored_in_plain_text() -> None:
    vault = Vault()
    assert not vault.encrypts
    assert vault.seal("s3cret") == vault.open("s3cret") == vault.reseal("s3cret") == "s3cret"
    assert vault.is_current("s3cret")


def test_vault_with_a_key_opens_plain_text() -> None:
    vault = Vault([NEW])
    assert vault.encrypts
    assert vault.open("s3cret") == "s3cret"
    assert not vault.is_current("s3cret")


# --- key rotation


def test_any_key_opens_and_the_first_seals() -> None:
    by_old = Vault([OLD]).seal("s3cret")
    vault = Vault([NEW, OLD])
    assert vault.open(by_old) == "s3cret"
    assert Vault([NEW]).open(vault.seal("s3cret")) == "s3cret"


@pytest.mark.parametrize("stored", ["s3cret", Vault([OLD]).seal("s3cret")], ids=["clear", "old"])
def test_resealed_secret_needs_only_the_first_key(stored: str) -> None:
    vault = Vault([NEW, OLD])
    assert not vault.is_current(stored)
    resealed = vault.reseal(stored)
    assert vault.is_current(resealed)
    assert Vault([NEW]).open(resealed) == "s3cret"
    assert vault.reseal(resealed) == resealed


def test_secret_of_an_unknown_key_is_reported() -> None:
    stored = Vault([OTHER]).seal("s3cret")
    vault = Vault([NEW, OLD])
    assert complaint(vault, stored) == "no key in BRIDGE_SECRET_KEY decrypts the secret"
    assert not vault.is_current(stored)
    with pytest.raises(SecretError):
        vault.reseal(stored)


def test_missing_key_is_reported() -> None:
    stored = Vault([NEW]).seal("s3cret")
    assert complaint(Vault(), stored) == (
        "the secret is encrypted, but BRIDGE_SECRET_KEY is not set"
    )
    assert not Vault().is_current(stored)
    with pytest.raises(SecretError):
        Vault().reseal(stored)


@pytest.mark.parametrize(
    "stored",
    [
        "fernet:",
        "fernet:garbage",
        "fernet:мусор",
        "fernet:" + "A" * 100,
        Vault([NEW]).seal("s3cret")[:-4],
        Vault([NEW]).seal("s3cret").replace("fernet:", "fernet:fernet:"),
        "fernet:" + Fernet(NEW).encrypt(b"\xffs3cret").decode(),
    ],
    ids=["empty", "garbage", "not ASCII", "long", "cut off", "sealed twice", "not UTF-8"],
)
def test_garbage_is_rejected_like_a_wrong_key(stored: str) -> None:
    assert complaint(Vault([NEW]), stored) == "no key in BRIDGE_SECRET_KEY decrypts the secret"


@pytest.mark.parametrize(
    "key", ["", "short", NEW[:-4], "ключ"], ids=["empty", "short", "cut off", "not ASCII"]
)
def test_invalid_keys_are_rejected(key: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*short)"):
        Vault([key])


# --- caching and secrecy


def test_opened_secret_is_cached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault = Vault([NEW])
    stored = vault.seal("s3cret")
    assert vault.open(stored) == "s3cret"
    monkeypatch.setattr(MultiFernet, "decrypt", None)
    assert vault.open(stored) == "s3cret"


def test_cache_is_not_shared_between_vaults() -> None:
    vault = Vault([NEW])
    stored = vault.seal("s3cret")
    vault.open(stored)
    complaint(Vault([OTHER]), stored)


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "KEPT_OPEN", 2)
    vault = Vault([NEW])
    for number in range(5):
        assert vault.open(vault.seal(str(number))) == str(number)
    assert vault._open_sealed.cache_info().currsize == 2


def test_repr_shows_no_key() -> None:
    vault = Vault([NEW, OLD])
    assert repr(vault) == str(vault) == "<Vault with 2 keys>"


# --- validation


def test_new_secrets_are_unique_standard_webhooks_keys() -> None:
    secret = new_secret()
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    Webhook(secret)
    assert secret_problem(secret) is None
    assert new_secret() != secret


@pytest.mark.parametrize(
    "secret", ["s", "your-secret", "секрет", "WHSEC_a", "whsec", whsec(24), whsec(25), whsec(64)]
)
def test_any_text_and_every_valid_key_is_accepted(secret: str) -> None:
    assert secret_problem(secret) is None


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_",
        "whsec_a",
        "whsec_это не base64",
        whsec(23),
        whsec(65),
        whsec(25).rstrip("="),
        whsec(24) + "\n",
        whsec(24) + "====",
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 24).decode(),
        "whsec_" + "A" * 42 + "B=",  # the last character has stray bits
    ],
)
def test_malformed_standard_webhooks_key_is_rejected(secret: str) -> None:
    problem = secret_problem(secret)
    assert problem is not None
    assert problem.startswith("begins with whsec_, so the rest must be 24 to 64 bytes in base64")
    assert secret == "whsec_" or secret not in problem


def test_prefix_of_encrypted_secrets_is_rejected() -> None:
    assert secret_problem("fernet:abc") == (
        "must not begin with fernet:, the prefix of encrypted secrets"
    )
