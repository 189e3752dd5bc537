"""The doctor checks the stored secrets of webhooks."""

from cryptography.fernet import Fernet

from bridge.access.vault import Vault
from tests.integration.doctor.conftest import Bot, diagnose
from tests.webhook_rows import add_webhook

OLD_KEY, NEW_KEY = (Fernet.generate_key().decode() for _ in range(2))


def add_webhooks(connection: Bot, *secrets: str | None) -> list[int]:
    """Add a webhook for each stored secret; return their ids."""
    return [add_webhook(connection, secret=secret) for secret in secrets]


def test_plain_text_secrets_without_a_key_are_a_warning(healthy: str, bot: Bot) -> None:
    add_webhooks(bot, None)
    assert diagnose(healthy)["webhook_secrets"].message == "no webhook has a secret"
    add_webhooks(bot, "s3cret", "s3cret")
    found = diagnose(healthy)["webhook_secrets"]
    assert found.level == "warning"
    assert found.message == "the secrets of 2 webhooks are stored as plain text"
    assert "BRIDGE_SECRET_KEY" in found.hint


def test_secrets_not_encrypted_with_the_first_key_are_a_warning(healthy: str, bot: Bot) -> None:
    by_old = Vault([OLD_KEY]).seal("s3cret")
    old, plain, rotated = add_webhooks(bot, by_old, "s3cret", Vault([NEW_KEY]).seal("s3cret"))
    found = diagnose(healthy, keys=f"{NEW_KEY},{OLD_KEY}")["webhook_secrets"]
    assert found.level == "warning"
    assert found.message.endswith(f"stored as plain text: {plain}")
    bot.execute("update bridge.webhooks set secret = %s where id = %s", [by_old, plain])
    bot.execute(
        "update bridge.webhooks set previous_secret = %s,"
        " previous_secret_expires_at = now() + interval '1 hour' where id = %s",
        [by_old, rotated],
    )
    found = diagnose(healthy, keys=f"{NEW_KEY},{OLD_KEY}")["webhook_secrets"]
    assert found.level == "warning"
    assert found.message.endswith(f"not encrypted with the first key: {old}, {plain}, {rotated}")
    found = diagnose(healthy, keys=OLD_KEY)["webhook_secrets"]
    assert found.level == "error"
    assert found.message.endswith(f"decrypts the secrets of 1 webhooks: {rotated}")


def test_webhooks_with_undecryptable_secrets_are_named(healthy: str, bot: Bot) -> None:
    by_old = Vault([OLD_KEY]).seal("s3cret")
    _, first, second = add_webhooks(bot, "s3cret", by_old, "fernet:garbage")
    whose = f"the secrets of 2 webhooks: {first}, {second}"
    found = diagnose(healthy, keys=NEW_KEY)["webhook_secrets"]
    assert found.level == "error"
    assert found.message == f"no key in BRIDGE_SECRET_KEY decrypts {whose}"
    found = diagnose(healthy)["webhook_secrets"]
    assert found.level == "error"
    assert found.message == f"BRIDGE_SECRET_KEY is not set and cannot decrypt {whose}"
    for text in (found.message, found.detail, found.hint):
        assert "s3cret" not in text
        assert by_old not in text


def test_expired_previous_secrets_are_ignored(healthy: str, bot: Bot) -> None:
    add_webhooks(bot, Vault([NEW_KEY]).seal("s3cret"), None)
    bot.execute(
        "update bridge.webhooks set previous_secret = 'clear', previous_secret_expires_at = now()"
        " where secret is not null"
    )
    found = diagnose(healthy, keys=f"{NEW_KEY},{OLD_KEY}")["webhook_secrets"]
    assert found.level == "ok"
    assert found.message == "the secrets of 1 webhooks are encrypted and can be decrypted"
