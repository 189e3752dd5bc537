"""The access log of requests."""

from ipaddress import ip_network

import structlog

from tests.integration.calling import Bot, add_token, calling


async def test_log_has_client_and_token_but_no_query(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "the-token", "webhooks:read")
    proxies = [ip_network("10.0.0.0/8")]
    headers = {"X-Forwarded-For": "198.51.100.7"}
    async with calling(
        bridge_url, token="the-token", access_log=True, address="10.0.0.1", proxies=proxies
    ) as client:
        with structlog.testing.capture_logs() as logs:
            await client.get("/webhooks?token=the-token&limit=3", headers=headers)
            await client.get("/webhooks/pgb_abcdefghijklmnopqrstuvwxyz", headers=headers)
            await client.post("/webhooks", headers=headers)
            await client.get("/a%0Ab", headers={"X-API-Key": "wrong"})
            await client.delete("/webhooks/1", headers={"X-API-Key": "wrong"})
    requests = [entry for entry in logs if entry["event"] == "request_completed"]
    for entry in requests:
        assert entry.pop("duration_ms") >= 0
        assert entry.pop("log_level") == "info"
        del entry["event"]
    whose = f"bridge token {token_id} (t)"
    assert requests == [
        {
            "method": "GET", "path": "/webhooks", "status": 200,
            "address": "198.51.100.7", "token": whose,
        },
        {
            "method": "GET", "path": "/webhooks/…", "status": 422,
            "address": "198.51.100.7", "token": whose,
        },
        {
            "method": "POST", "path": "/webhooks", "status": 403,
            "address": "198.51.100.7", "token": whose,
        },
        {
            "method": "GET", "path": "/a%0Ab", "status": 404,
            "address": "10.0.0.1", "token": None,
        },
        {
            "method": "DELETE", "path": "/webhooks/1", "status": 401,
            "address": "10.0.0.1", "token": None,
        },
    ]  # fmt: skip
    assert "the-token" not in str(logs)


async def test_access_log_is_off_by_default(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        with structlog.testing.capture_logs() as logs:
            await client.get("/webhooks")
    assert logs == []
