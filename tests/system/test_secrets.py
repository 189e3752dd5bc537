"""A bridge with a key leaves no readable secret in the database."""

from typing import Any

import httpx
import psycopg
import pytest
import trio

from bridge.access.vault import Vault
from bridge.settings import load_settings
from tests.system.processes import TOKEN, invoked, running
from tests.waiting import PATIENCE_SECONDS, until
from tests.webhook_rows import add_webhook

KEY = "+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/8="  # as openssl prints them


async def test_new_and_existing_secrets_are_encrypted(
    bridge_url: str, bot: psycopg.Connection[Any]
) -> None:
    def stored() -> list[str]:
        rows = bot.execute("select secret from bridge.webhooks order by id").fetchall()
        return [secret for (secret,) in rows]

    add_webhook(bot, secret="s3cret-1")
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, secret_key=KEY) as bridge:
            async with httpx.AsyncClient(headers={"X-API-Key": TOKEN}) as client:
                answer = await client.post(
                    f"http://127.0.0.1:{bridge.port}/webhooks",
                    json={
                        "name": "w",
                        "url": "http://localhost/",
                        "event_type": "a.b",
                        "secret": "s3cret-2",
                    },
                )
            assert answer.status_code == 201, answer.text
            await until(lambda: "s3cret-1" not in stored())
    vault = Vault(load_settings(database_url=bridge_url, secret_key=KEY).secret_keys)
    assert all(secret.startswith("fernet:") for secret in stored())
    assert [vault.open(secret) for secret in stored()] == ["s3cret-1", "s3cret-2"]


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_invalid_key_is_reported_without_showing_it(bridge_url: str, command: str) -> None:
    result = invoked(command, url=bridge_url, secret_key=f"{KEY},hunter2")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "BRIDGE_SECRET_KEY: key 2 must be 32 bytes in base64" in result.stderr
    assert "hunter2" not in result.stderr
