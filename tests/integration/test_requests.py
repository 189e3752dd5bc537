"""Which bodies and queries the API accepts, and which it rejects as ambiguous."""

import gzip
import json

from bridge.web.http.body import MAX_NESTING
from tests.integration.calling import (
    FORM,
    Bot,
    assert_refused,
    calling,
    create,
    secret_of,
    secrets_of,
)

JSON = {"Content-Type": "application/json"}


def form_with(text: str) -> bytes:
    """Return a complete form with this JSON as the field ``id``, which is ignored."""
    return (json.dumps(FORM)[:-1] + f', "id": {text}}}').encode()


def nested(depth: int) -> bytes:
    """Return a complete form nested this deep."""
    return form_with("[" * (depth - 1) + "]" * (depth - 1))


REJECTED = {
    "empty": b"",
    "blank": b"  ",
    "null": b"null",
    "list": b"[]",
    "text": b'"text"',
    "number": b"1",
    "cut off": json.dumps(FORM)[:-1].encode(),
    "trailing garbage": json.dumps(FORM).encode() + b"x",
    "two of them": json.dumps(FORM).encode() * 2,
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(FORM).encode(),
    "utf-16": json.dumps(FORM).encode("utf-16"),
    "utf-32": json.dumps(FORM).encode("utf-32-le"),
    "not utf-8": form_with('"\xff"').replace(b"\xc3\xbf", b"\xff"),
    "a bare control character": form_with('"\0"'),
    "a level too deep": nested(MAX_NESTING + 1),
    "deep nesting": nested(30_000),
    "unclosed lists": b"[" * 65_000,
    "unclosed objects": b'{"a":' * 13_000,
    "thousands of digits": form_with("9" * 5000),
    "NaN": form_with("NaN"),
    "Infinity": form_with("Infinity"),
    "-Infinity": form_with("[-Infinity]"),
    "duplicate key": form_with('1, "name": "other"'),
    "nested duplicate key": form_with('{"a": 1, "a": 1}'),
    "duplicate key, escaped": form_with('1, "n\\u0061me": "other"'),
}


async def test_malformed_and_ambiguous_bodies_are_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        for name, body in REJECTED.items():
            for method, path in ("POST", "/webhooks"), ("PATCH", f"/webhooks/{webhook['id']}"):
                answer = await client.request(method, path, content=body, headers=JSON)
                assert answer.status_code == 422, (name, answer.text)
                for each in answer.json()["detail"]:
                    assert set(each) == {"type", "loc", "msg"}
                    assert each["loc"][0] == "body"
        assert (await client.get("/webhooks")).json()["items"] == [webhook]


async def test_nested_objects_may_repeat_keys_of_others(
    bridge_url: str,
) -> None:
    async with calling(bridge_url) as client:
        for body in nested(MAX_NESTING), form_with('[{"name": 1}, {"name": 1}]'):
            answer = await client.post("/webhooks", content=body, headers=JSON)
            assert answer.status_code == 201, answer.text


async def test_text_postgresql_cannot_store_is_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for text in ["a\\u0000b", "\\ud800", "\\udc00\\ud800"]:
            for field in "name", "description", "secret", "filter", "url", "event_type":
                body = (json.dumps({**FORM, field: "@"})).replace("@", text).encode()
                answer = await client.post("/webhooks", content=body, headers=JSON)
                assert_refused(answer, field)


async def test_infinite_numbers_are_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for field in "timeout_seconds", "rate_per_second":
            body = json.dumps(FORM)[:-1] + f', "{field}": 1e999}}'
            answer = await client.post("/webhooks", content=body, headers=JSON)
            assert_refused(answer, field)


async def test_errors_do_not_quote_the_body(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for body in (
            b'{"secret": "s3cret"',
            b'{"s3cret": 1, "s3cret": 2}',
            b'{"secret": ["s3cret"]}',
            b'{"secret": "whsec_s3cret"}',
            b"s3cret",
        ):
            answer = await client.post("/webhooks", content=body, headers=JSON)
            assert answer.status_code == 422
            assert "s3cret" not in answer.text


# Unknown fields


async def test_misspelt_field_is_refused_with_a_suggestion(bridge_url: str, bot: Bot) -> None:
    since = {"since": "2026-01-01T00:00:00Z"}
    async with calling(bridge_url) as client:
        webhook = await create(client)
        one = f"/webhooks/{webhook['id']}"
        for method, path, body, name, meant in (
            ("POST", "/webhooks", FORM, "fliter", "filter"),
            ("POST", "/webhooks", FORM, "rate_per_seconds", "rate_per_second"),
            ("PATCH", one, {"name": "other"}, "isActive", "is_active"),
            ("PATCH", one, {}, "retry_shedule", "retry_schedule"),
            ("POST", f"{one}/rotate-secret", {}, "secrets", "secret"),
            ("POST", f"{one}/redeliver", since, "dry-run", "dry_run"),
            ("POST", "/tokens", {"name": "t", "scopes": ["admin"]}, "expires", "expires_at"),
        ):
            answer = await client.request(method, path, json={**body, name: "x"})
            assert_refused(answer, name)
            [problem] = answer.json()["detail"]
            assert problem == {
                "type": "extra_forbidden",
                "loc": ["body", name],
                "msg": f'unknown field "{name}"; did you mean "{meant}"?',
            }
        assert (await client.get("/webhooks")).json()["items"] == [webhook]
        assert (await client.get("/tokens")).json()["items"] == []
        assert secret_of(bot, webhook["id"]) is None


async def test_requests_without_a_body_refuse_fields(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        one = f"/webhooks/{webhook['id']}"
        for method, path in (
            ("POST", "/ws/tickets"),
            ("POST", f"{one}/pause"),
            ("POST", f"{one}/resume"),
            ("POST", f"{one}/test"),
            ("POST", f"{one}/redelivery/cancel"),
            ("POST", "/deliveries/1/redeliver"),
            ("DELETE", "/tokens/1"),
            ("DELETE", one),
        ):
            answer = await client.request(method, path, json={"events": ["*"]})
            assert_refused(answer, "events")
            assert answer.json()["detail"][0]["msg"] == 'unknown field "events"'
            for body in b'["events"]', b'"events"', b"x", b"x" * 70_000, gzip.compress(b"{}"):
                headers = JSON if body[:1] != b"\x1f" else {**JSON, "Content-Encoding": "gzip"}
                answer = await client.request(method, path, content=body, headers=headers)
                assert answer.status_code == 422, body[:10]
        assert (await client.get("/webhooks")).json()["items"] == [webhook]
        for body in b"", b"{}", b"null":
            answer = await client.post("/ws/tickets", content=body, headers=JSON)
            assert answer.status_code == 201, body


async def test_names_of_unknown_fields_cannot_break_the_answer(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        many = ", ".join(f'"field{number}": 1' for number in range(4_000))
        for fields in '"\\ud800": 1', '"a\\n\\u001b[2J{x}": 1', f'"{"x" * 60_000}": 1', many:
            body = (json.dumps(FORM)[:-1] + f", {fields}}}").encode()
            answer = await client.post("/webhooks", content=body, headers=JSON)
            assert answer.status_code == 422
            assert len(answer.content) < 4_000
            assert "did you mean" not in answer.text


# Content-Type and Content-Encoding


async def test_json_is_accepted_with_or_without_content_type(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for content_type in [
            "application/json",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            "APPLICATION/JSON",
            "application/vnd.shop+json",
            "",
            None,
        ]:
            headers = {} if content_type is None else {"Content-Type": content_type}
            body = json.dumps(FORM).encode()
            answer = await client.post("/webhooks", content=body, headers=headers)
            assert answer.status_code == 201, answer.text


async def test_other_content_types_are_rejected(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="the-first")
        path = f"/webhooks/{webhook['id']}"
        for content_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/json",
            "application/jsonp",
            "application/xml; a=application/json",
            "text/plain, application/json",
        ]:
            for method, suffix, body in (
                ("POST", "/webhooks", FORM),
                ("PATCH", path, {"name": "other"}),
                # Without its body, it would generate a secret.
                ("POST", f"{path}/rotate-secret", {"secret": "the-second"}),
                ("POST", f"{path}/redeliver", {"since": "2026-01-01T00:00:00Z"}),
            ):
                answer = await client.request(
                    method,
                    suffix,
                    content=json.dumps(body).encode(),
                    headers={"Content-Type": content_type},
                )
                assert answer.status_code == 422
                (error,) = answer.json()["detail"]
                assert error["loc"] == ["header", "content-type"]
                assert error["msg"] == "Content-Type must be application/json"
        assert (await client.get("/webhooks")).json()["items"] == [webhook]
        assert secrets_of(bot, webhook["id"]) == ["the-first", None]


async def test_compressed_bodies_are_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for coding in "gzip", "br", "identity, gzip", "GZIP":
            answer = await client.post(
                "/webhooks",
                content=gzip.compress(json.dumps(FORM).encode()),
                headers={**JSON, "Content-Encoding": coding},
            )
            assert answer.status_code == 415
            assert answer.headers["Accept-Encoding"] == "identity"
            assert "Content-Encoding" in answer.json()["detail"]
        answer = await client.post("/webhooks", json=FORM, headers={"Content-Encoding": "identity"})
        assert answer.status_code == 201


async def test_too_large_content_length_is_rejected_unread(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for length in ["65537", "9" * 30]:
            headers = {**JSON, "Content-Length": length}
            answer = await client.post("/webhooks", content=b"{", headers=headers)
            assert (answer.status_code, answer.json()) == (
                413,
                {"detail": "Request body too large"},
            )


# Queries


async def test_parameters_postgresql_cannot_store_are_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for value in ["%00", "a%00b"]:
            for path, parameter in (
                ("/webhooks", "event_type"),
                ("/webhooks", "limit"),
                ("/webhooks", "is_active"),
                ("/webhooks/1/deliveries", "status"),
                ("/webhooks/1/deliveries", "before_id"),
                ("/events", "event_type"),
                ("/events", "since"),
            ):
                assert_refused(await client.get(f"{path}?{parameter}={value}"), parameter)


async def test_query_that_is_not_utf8_is_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for value in ["%FF", "%ED%A0%80", "%C0%80", "%F4%90%80%80"]:
            for query in f"event_type={value}", f"{value}=1", f"limit=1&x={value}":
                for path in "/webhooks", "/events", "/webhooks/stats", "/webhooks/1":
                    assert_refused(await client.get(f"{path}?{query}"), "query")


async def test_repeated_known_parameters_are_rejected(
    bridge_url: str,
) -> None:
    async with calling(bridge_url) as client:
        for path, parameter, value in (
            ("/webhooks", "limit", "1"),
            ("/webhooks", "event_type", ""),
            ("/webhooks/1/deliveries", "offset", "0"),
            ("/events", "since", "1"),
        ):
            twice = f"{path}?{parameter}={value}&{parameter}={value}"
            assert_refused(await client.get(twice), parameter)
        assert (await client.get("/webhooks?limit=1&_=1&_=2")).status_code == 200


async def test_numbers_in_python_notation_are_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for value in ["1_0", "1.0", "+1", "%201", "1%20", "1%0A", "0x1", "٣", "1e1"]:
            number = value.replace("+", "%2B")
            assert_refused(await client.get(f"/webhooks?limit={number}"), "limit")
            assert_refused(await client.get(f"/webhooks?offset={number}"), "offset")
            assert_refused(await client.get(f"/events?since={number}"), "since")
            answer = await client.get(f"/webhooks/{number}")
            assert answer.status_code == (404 if number == "1%0A" else 422), number


async def test_misspelt_parameters_are_refused_with_a_suggestion(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        await create(client)
        for path, name, message in (
            ("/webhooks", "isActive", 'unknown parameter "isActive"; did you mean "is_active"?'),
            (
                "/webhooks/1/deliveries",
                "state",
                'unknown parameter "state"; did you mean "status"?',
            ),
            (
                "/events",
                "event_types",
                'unknown parameter "event_types"; did you mean "event_type"?',
            ),
            ("/tokens", "offest", 'unknown parameter "offest"; did you mean "offset"?'),
            ("/audit", "before", 'unknown parameter "before"; did you mean "before_id"?'),
        ):
            answer = await client.get(path, params={name: "1"})
            assert_refused(answer, name)
            assert answer.json()["detail"][0]["msg"] == message
        for path in ("/webhooks", "/webhooks/1", "/webhooks/1/deliveries", "/events"):
            answer = await client.get(path, params={"_": "1", "page": "2", "token": "x"})
            assert answer.status_code == 200
