"""Databases that are not in UTF-8: what clients cannot read, or the encoding cannot hold."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from bridge.assets import migrations
from bridge.demo.postgres import EmbeddedPostgres
from tests.integration.application import Application, rule
from tests.integration.calling import calling, create
from tests.integration.delivering import delivering, delivery, enqueue
from tests.integration.doctor.conftest import diagnose
from tests.integration.relaying import relaying
from tests.receiver import answer, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook

#: Encodings with bytes of a text that UTF-8 does not have, and with how we write them.
UNREADABLE = [
    ("SQL_ASCII", b"Jos\xe9", "Jos<e9>"),
    ("SQL_ASCII", "é".encode() + b"\xff\xd0", "é<ff><d0>"),
    ("WIN1251", b"a\x98b", "a<98>b"),
    ("WIN1252", b"\x81", "<81>"),
    ("WIN1257", b"\xa1", "<a1>"),
    ("EUC_KR", b"\xc9\xa1", "<c9a1>"),
]
BY_ENCODING = pytest.mark.parametrize(("encoding", "bad", "written"), UNREADABLE)

Create = Callable[[str], Application]


@pytest.fixture
def in_encoding(server: EmbeddedPostgres) -> Iterator[Create]:
    """Creates an application in an encoding, with a rule on ``clients``."""
    opened: list[Application] = []
    with psycopg.connect(server.url(), autocommit=True) as connection:

        def make(encoding: str) -> Application:
            name = f"in_{encoding.lower()}"
            connection.execute(
                f"create database {name} template template0 encoding '{encoding}'"
                " lc_collate 'C' lc_ctype 'C'".encode()
            )
            app = Application(server.url(name))
            opened.append(app)
            app.run("set client_encoding = 'UTF8'")
            app.run("create table clients (name text primary key, born text default '2001-01-01')")
            app.capture(
                rule("client.created", "public.clients", "'insert'", "payload = ['name', 'born']")
                + rule(
                    "client.born",
                    "public.clients",
                    "'delete'",
                    "payload = { born = 'old.born::date' }",
                )
            )
            return app

        yield make
        for app in opened:
            database = app.connection.info.dbname
            app.connection.close()
            connection.execute(f"drop database {database} with (force)".encode())


def raw(app: Application, statement: bytes) -> None:
    """Run a statement whose bytes are already in the database's encoding."""
    encoding = app.connection.info.parameter_status("server_encoding")
    with psycopg.connect(app.url, autocommit=True) as connection:
        connection.execute(f"set client_encoding = '{encoding}'".encode())
        connection.pgconn.exec_(statement)
        assert not connection.pgconn.error_message, connection.pgconn.error_message


def dead_letters(app: Application) -> list[tuple[Any, ...]]:
    return app.connection.execute(
        "select id, bridge.utf8_text(event_type), reason from bridge.dead_letters order by id"
    ).fetchall()


@BY_ENCODING
async def test_unreadable_row_becomes_an_event_with_its_key(
    in_encoding: Create, encoding: str, bad: bytes, written: str
) -> None:
    app = in_encoding(encoding)
    raw(app, b"insert into clients values ('before'), ('" + bad + b"'), ('after')")
    async with relaying(app.url) as relayed:
        await relayed.until_count(3)
    payloads = [json.loads(event.payload) for event in relayed.events]
    assert [payload["name"] for payload in payloads] == ["before", written, "after"]
    assert ["_capture_error" in payload for payload in payloads] == [False, True, False]
    assert [event.id for event in relayed.events] == [1, 2, 3]
    assert dead_letters(app) == []
    [count] = app.connection.execute(
        "select failure_count from bridge.capture_rules where name = 'client.created'"
    ).fetchall()
    assert count == (1,)


@BY_ENCODING
async def test_error_that_quotes_an_unreadable_value_is_readable(
    in_encoding: Create, encoding: str, bad: bytes, written: str
) -> None:
    app = in_encoding(encoding)
    raw(app, b"insert into clients values ('a', '" + bad + b"')")
    raw(app, b"delete from clients")
    async with relaying(app.url) as relayed:
        await relayed.until_count(2)
    [*_, payload] = [json.loads(event.payload) for event in relayed.events]
    assert (payload["name"], f'"{written}"' in payload["_capture_error"]) == ("a", True)
    finding = diagnose(app.url, rules=[])["capture_errors"]
    assert finding.level == "error"
    assert written in finding.message


@BY_ENCODING
async def test_unreadable_event_of_another_origin_is_set_aside(
    in_encoding: Create, encoding: str, bad: bytes, written: str
) -> None:
    app = in_encoding(encoding)
    into = b"insert into bridge.outbox (event_type, payload) values "
    raw(app, into + b"('a.b', '{}'), ('a.b', '{\"x\": \"" + bad + b"\"}')")
    raw(app, into + b"('" + bad + b"', '{}'), ('a.b', '{}')")
    async with relaying(app.url) as relayed:
        await relayed.until_count(3)
    assert [json.loads(event.payload).get("dead_letter") for event in relayed.events] == [
        *(None, 1, None)
    ]
    assert [event_type for _, event_type, _ in dead_letters(app)] == ["a.b", written]
    assert app.connection.execute("select from bridge.outbox").fetchall() == []


@pytest.mark.parametrize(
    ("encoding", "text", "unknown"),
    [("LATIN1", "Москва", "М"), ("WIN1251", "ok 😀", "😀"), ("EUC_JP", "é ก", "ก")],
)
async def test_text_that_the_encoding_lacks_is_rejected_by_field(
    in_encoding: Create, encoding: str, text: str, unknown: str
) -> None:
    app = in_encoding(encoding)
    problem = f"contains {unknown}, which the database's encoding, {encoding}, does not have"
    async with calling(app.url) as client:
        webhook = await create(client)
        del webhook["warnings"]  # no rule makes its events
        for response, field in (
            (await client.patch(f"/webhooks/{webhook['id']}", json={"name": text}), "name"),
            (await client.patch("/webhooks/1", json={"description": text}), "description"),
            (await client.patch("/webhooks/1", json={"filter": f'$.a == "{text}"'}), "filter"),
        ):
            assert response.status_code == 422
            [found] = response.json()["detail"]
            assert (found["loc"], found["msg"]) == (["body", field], problem)
        made = await client.post("/tokens", json={"name": text, "scopes": ["events:read"]})
        assert made.status_code == 422
        assert problem in made.text
        assert (await client.get("/webhooks/1")).json() == webhook


@pytest.mark.parametrize(
    ("encoding", "body", "kept"),
    [
        ("LATIN1", "é Москва 😀", "é ?????? ?"),
        ("WIN1251", "é Москва 😀", "? Москва ?"),
        ("EUC_JP", "é Москва 😀", "é Москва ?"),
        ("SQL_ASCII", "é Москва 😀", "é Москва 😀"),
        ("UTF8", "é Москва 😀", "é Москва 😀"),
    ],
)
async def test_response_that_the_encoding_lacks_is_settled(
    in_encoding: Create, encoding: str, body: str, kept: str
) -> None:
    app = in_encoding(encoding)
    async with receiving() as receiver:
        receiver.behaviours["/gone"] = answer("410 Gone", body.encode())
        receiver.behaviours["/later"] = answer("500 Oops", body.encode())
        receiver.behaviours["/fine"] = answer(body=body.encode())
        paths = ("/gone", "/later", "/fine", "/")
        webhooks = [add_webhook(app.connection, receiver.url(path)) for path in paths]
        ids = [enqueue(app.connection, each)[0] for each in webhooks]
        async with delivering(app.url):
            await until_true(app.connection, "count(*) = 4 from bridge.delivery_attempts")
            await until_true(app.connection, "count(*) = 1 from bridge.delivery_queue")
    rows = [delivery(app.connection, number) for number in ids]
    assert [row["status"] for row in rows] == ["failed", "pending", "success", "success"]
    assert [row["response_body"] for row in rows] == [kept, kept, kept, "ok"]
    assert app.connection.execute(
        "select is_active from bridge.webhooks order by id"
    ).fetchall() == [(False,), (True,), (True,), (True,)]


@BY_ENCODING
def test_webhook_that_clients_cannot_read_is_rejected(
    in_encoding: Create, encoding: str, bad: bytes, written: str
) -> None:
    app = in_encoding(encoding)
    webhook = add_webhook(app.connection)
    for column in (b"name", b"url", b"description"):
        with pytest.raises(AssertionError, match="webhooks_"):
            raw(app, b"update bridge.webhooks set " + column + b" = 'http://a/" + bad + b"'")
    assert add_webhook(app.connection) > webhook


def test_utf8_databases_do_not_check_their_rows(app: Application) -> None:
    app.run("create table clients (name text)")
    app.capture(rule("client.created", "public.clients", "'insert'", "payload = ['name']"))
    [(source,)] = app.connection.execute(
        "select prosrc from pg_proc where proname = 'capture_client_created'"
    ).fetchall()
    assert "convert_to" not in source


def test_migrations_have_one_character_beyond_ascii() -> None:
    assert {each for _, sql in migrations() for each in sql if not each.isascii()} == {"…"}
