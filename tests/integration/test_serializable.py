"""Capture adds no serialization failures to an application on SERIALIZABLE."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from tests.integration.application import Application, rule

Connection = psycopg.Connection[tuple[Any, ...]]
#: How often each scene is repeated. A conflict shows in nearly every round.
ROUNDS = 10

ORDERS = """
    create table public.orders (id bigint primary key, total numeric);
    create table public.order_items (
        order_id bigint, product text, primary key (order_id, product));
    insert into public.orders select n, 1 from generate_series(1, 2000) n;
    insert into public.order_items select n, 'Tea' from generate_series(1, 2000) n;
    analyze public.orders, public.order_items;
"""
NOTED = """
    [[note]]
    topic = "order.opened"
    table = "public.orders"
    on = "insert"
    key = "id"
    value = { total = "total" }

    [[capture]]
    event = "item.added"
    table = "public.order_items"
    on = "insert"
    when = "bridge.noted('order.opened', new.order_id::text) is null"
    payload = ["order_id"]
"""
READINGS = """
    create table public.readings (id bigint, at date, v int, primary key (id, at))
        partition by range (at);
    create table public.jan partition of public.readings
        for values from ('2026-01-01') to ('2026-02-01');
    create table public.feb partition of public.readings
        for values from ('2026-02-01') to ('2026-03-01');
    insert into public.readings select n, '2026-01-05', 1 from generate_series(1, 2000) n;
    insert into public.readings select n, '2026-02-05', 1 from generate_series(3001, 5000) n;
    analyze public.readings;
"""
MOVED = rule("reading", "public.readings", '["insert", "update", "delete"]', 'payload = "*"')


@contextmanager
def sessions(app: Application, count: int) -> Iterator[list[Connection]]:
    """Open serializable sessions that never scan a whole table, as those of large tables do not."""
    with ExitStack() as stack:
        opened = [stack.enter_context(psycopg.connect(app.url)) for _ in range(count)]
        for each in opened:
            each.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            each.execute("set enable_seqscan = off")
            each.commit()
        yield opened


def order(session: Connection, number: int) -> None:
    session.execute("insert into public.orders values (%s, 1)", [number])
    session.execute("insert into public.order_items values (%s, 'Tea')", [number])


def item_of_old_order(session: Connection, number: int) -> None:
    session.execute("insert into public.order_items values (%s, 'Pu-erh')", [number % 2000])


def order_with_many_items(session: Connection, number: int) -> None:
    order(session, number)
    session.execute(
        "insert into public.order_items select %s, n::text from generate_series(1, 50) n", [number]
    )


def insert_and_delete(session: Connection, number: int) -> None:
    session.execute("insert into public.readings values (%s, '2026-01-05', 1)", [number])
    old = "delete from public.readings where id = %s and at = '2026-01-05'"
    session.execute(old, [number % 2000])


def move(session: Connection, number: int) -> None:
    moved = "update public.readings set at = '2026-02-05' where id = %s and at = '2026-01-05'"
    session.execute(moved, [number % 2000])


def move_and_lock(session: Connection, number: int) -> None:
    """Move a row that the same transaction then locks, which sets xmax."""
    move(session, number)
    session.execute("select from public.readings where id = %s for update", [number % 2000])
    move_back = "update public.readings set v = 2 where id = %s and at = '2026-02-05'"
    session.execute(move_back, [number % 2000])


SCENES: dict[str, tuple[str, str, list[Callable[[Connection, int], None]]]] = {
    "three orders with items": (ORDERS, NOTED, [order, order, order]),
    "items of old and new orders": (ORDERS, NOTED, [order, item_of_old_order]),
    "orders with many items": (ORDERS, NOTED, [order_with_many_items, order]),
    "inserts and deletes of a partitioned table": (READINGS, MOVED, [insert_and_delete] * 2),
    "moves between partitions": (READINGS, MOVED, [move, move, insert_and_delete]),
    "moves of locked rows": (READINGS, MOVED, [move_and_lock, move_and_lock]),
}


@pytest.mark.parametrize(("tables", "rules", "steps"), SCENES.values(), ids=SCENES.keys())
def test_capture_causes_no_serialization_failures(
    app: Application, tables: str, rules: str, steps: list[Callable[[Connection, int], None]]
) -> None:
    app.run(tables)
    app.capture(rules)
    with sessions(app, len(steps)) as opened:
        for number in range(ROUNDS):
            # Rows far apart, so that the transactions share no page of the application's tables.
            for place, (session, step) in enumerate(zip(opened, steps, strict=True)):
                step(session, 100_000 * (place + 1) + 700 * place + number)
            # The one that began last commits first.
            for session in reversed(opened):
                session.commit()


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_notes_mean_the_same_at_every_isolation_level(app: Application, level: str) -> None:
    app.run(f"set session characteristics as transaction isolation level {level}")

    def noted(key: str = "k") -> object:
        return app.connection.execute("select bridge.noted('t', %s)", [key]).fetchone()

    with app.connection.transaction():
        assert noted() == (None,)
        app.run("select bridge.note('t', 'k', '1')", "select bridge.note('t', 'k', '2')")
        assert noted() == noted() == (1,)
        assert noted("x" * 2000) == (None,)
        with app.connection.transaction(force_rollback=True):
            app.run("select bridge.note('t', 'other', '3')")
            assert noted("other") == (3,)
        assert noted("other") == (None,)
        take = "select bridge.take_note('t', 'k')"
        taken = [app.connection.execute(take).fetchone() for _ in range(2)]
        assert taken == [(1,), (None,)]
        assert noted() == (None,)
        app.run("select bridge.note('t', 'k', '4')")
        assert noted() == (4,)
    assert noted() == (None,)


@pytest.mark.parametrize("level", ["read committed", "serializable"])
def test_moves_are_updates_at_every_isolation_level(app: Application, level: str) -> None:
    app.run(READINGS)
    app.capture(MOVED)
    app.run(f"set session characteristics as transaction isolation level {level}")
    app.run("update public.readings set at = '2026-02-05' where id in (1, 2)")
    assert app.payloads() == [{"id": n, "at": "2026-02-05", "v": 1} for n in (1, 2)]
    app.together(
        "delete from public.readings where id = 3",
        "insert into public.readings values (3, '2026-02-05', 1)",
    )
    assert len(app.payloads()) == 2
