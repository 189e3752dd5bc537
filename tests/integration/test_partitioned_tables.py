"""Rules on partitioned tables: an update that moves a row is one update."""

from contextlib import nullcontext
from typing import Any

import pytest

from tests.integration.application import Application, rule

SHARDS = """
create table public.shards (id int, region text, total int, label text)
    partition by list (region);
create table public.north partition of public.shards for values in ('north');
create table public.south partition of public.shards for values in ('south')
    partition by range (total);
create table public.south_small partition of public.south for values from (0) to (100);
create table public.south_large partition of public.south for values from (100) to (maxvalue);
-- Attached, with its columns in a different order and one of them dropped.
create table public.east (total int, gone int, label text, region text, id int);
alter table public.east drop column gone;
alter table public.shards attach partition public.east for values in ('east');
"""
_PAYLOAD = """[capture.payload]
id = "id"
op = "tg_op"
was = "array[old.region, old.total::text, old.label]"
now = "array[new.region, new.total::text, new.label]"
"""


def shard_rules(*, deferred: bool, only: str | None = None) -> str:
    """Return a rule for each operation, or for one of them."""
    more = f"deferred = {str(deferred).lower()}\n{_PAYLOAD}"
    return "".join(
        rule(f"shard.{on}", "public.shards", f'"{on}"', more)
        for on in ("insert", "update", "delete")
        if only in (None, on)
    )


@pytest.fixture(params=[False, True], ids=["at once", "deferred"])
def deferred(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def shards(app: Application) -> Application:
    app.run(SHARDS)
    return app


@pytest.fixture
def ruled(shards: Application, deferred: bool) -> Application:
    """Return the partitioned table with a rule for each operation."""
    shards.capture(shard_rules(deferred=deferred))
    return shards


@pytest.fixture
def northern(ruled: Application) -> Application:
    """Return the same table with one row, whose insert event is taken."""
    ruled.run("insert into public.shards values (1, 'north', 5, 'a')")
    ruled.events()
    return ruled


def shape(events: list[tuple[str, Any]]) -> list[tuple[str, int]]:
    """Return what happened to which row."""
    return [(kind.removeprefix("shard."), payload["id"]) for kind, payload in events]


def test_row_of_any_partition_is_captured(ruled: Application) -> None:
    ruled.run(
        "insert into public.shards values"
        " (1, 'north', 5, 'a'), (2, 'south', 5, 'b'), (3, 'south', 500, 'c'), (4, 'east', 5, 'd')",
        # Also through the partition's own name.
        "insert into public.south_large values (5, 'south', 600, 'e')",
        "insert into public.east (id, region, total, label) values (6, 'east', 6, 'f')",
    )
    assert shape(ruled.events()) == [("insert", number) for number in range(1, 7)]
    ruled.run("update public.shards set label = upper(label)", "delete from public.shards")
    events = ruled.events()
    assert sorted(shape(events)) == sorted(
        (what, number) for what in ("update", "delete") for number in range(1, 7)
    )
    sent = {(kind, payload["id"]): payload for kind, payload in events}
    assert sent["shard.update", 4] == {
        "id": 4, "op": "UPDATE", "was": ["east", "5", "d"], "now": ["east", "5", "D"],
    }  # fmt: skip
    assert sent["shard.delete", 6] == {
        "id": 6, "op": "DELETE", "was": ["east", "6", "F"], "now": [None, None, None],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ("region = 'south'", ["south", "5", "a"]),
        ("region = 'south', total = 500", ["south", "500", "a"]),
        ("region = 'east', label = 'moved'", ["east", "5", "moved"]),
    ],
)
def test_move_to_another_partition_is_one_update(
    northern: Application, change: str, now: list[str]
) -> None:
    northern.run(f"update public.shards set {change}")
    update = {"id": 1, "op": "UPDATE", "was": ["north", "5", "a"], "now": now}
    assert northern.events() == [("shard.update", update)]
    northern.run("update public.shards set region = 'north', total = 5, label = 'a'")
    back = {"id": 1, "op": "UPDATE", "was": now, "now": ["north", "5", "a"]}
    assert northern.events() == [("shard.update", back)]


def test_move_while_capture_is_off_leaves_nothing_behind(northern: Application) -> None:
    northern.run(
        "set bridge.capture = off",
        "update public.shards set region = 'south'",
        "reset bridge.capture",
        "update public.shards set region = 'north'",
    )
    update = {"id": 1, "op": "UPDATE", "was": ["south", "5", "a"], "now": ["north", "5", "a"]}
    assert northern.events() == [("shard.update", update)]


def test_move_between_subpartitions_is_one_update(ruled: Application) -> None:
    ruled.run("insert into public.shards values (1, 'south', 5, 'a')")
    ruled.events()
    ruled.run("update public.shards set total = 500", "update public.south set total = 7")
    assert [(kind, payload["was"][1], payload["now"][1]) for kind, payload in ruled.events()] == [
        ("shard.update", "5", "500"),
        ("shard.update", "500", "7"),
    ]


def test_each_of_many_moved_rows_keeps_its_old_row(ruled: Application) -> None:
    ruled.run(
        "insert into public.shards"
        " select i, case when i % 2 = 0 then 'north' else 'south' end, i, 'x'"
        " from generate_series(1, 500) i"
    )
    ruled.events()
    # Half of the rows change their partition.
    ruled.run("update public.shards set region = 'south', total = total + 1000, label = 'y'")
    events = ruled.events()
    assert {kind for kind, _ in events} == {"shard.update"}
    sent = {payload["id"]: payload for _, payload in events}
    assert len(events) == len(sent) == 500
    for number, payload in sent.items():
        was = ["south" if number % 2 else "north", str(number), "x"]
        assert (payload["was"], payload["now"]) == (was, ["south", str(number + 1000), "y"])


@pytest.mark.parametrize("only", ["insert", "update", "delete"])
def test_rule_for_one_operation_does_not_mistake_a_move(
    shards: Application, deferred: bool, only: str
) -> None:
    shards.capture(shard_rules(deferred=deferred, only=only))
    shards.run(
        "insert into public.shards values (1, 'north', 5, 'a'), (2, 'north', 5, 'b')",
        "update public.shards set region = 'south'",
        "update public.shards set label = 'c' where id = 1",
        "delete from public.shards where id = 2",
    )
    expected = {
        "insert": [("insert", 1), ("insert", 2)],
        "update": [("update", 1), ("update", 2), ("update", 1)],
        "delete": [("delete", 2)],
    }
    assert shape(shards.events()) == expected[only]


def test_columns_and_when_apply_to_moves(shards: Application) -> None:
    shards.capture(
        rule("label", "public.shards", '"update"', 'columns = ["label"]\npayload = ["id"]')
        + rule(
            "grew", "public.shards", '"update"', 'when = "new.total > old.total"\npayload = ["id"]'
        )
    )
    shards.run("insert into public.shards values (1, 'north', 5, 'a'), (2, 'north', 6, 'b')")
    shards.run("update public.shards set region = 'south'")
    assert shards.events() == []
    shards.run("update public.shards set region = 'east', total = total + 1 where id = 1")
    shards.run("update public.shards set region = 'east', label = null where id = 2")
    assert shards.events() == [("grew", {"id": 1}), ("label", {"id": 2})]


@pytest.mark.parametrize("value", ['{"a":  1, "a": 2}', "1.0", r'{"a": "\ud83c\udf89"}'])
def test_move_does_not_change_a_json_column(
    shards: Application, value: str, deferred: bool
) -> None:
    shards.run("alter table public.shards add details json")
    more = f"deferred = {str(deferred).lower()}\n"
    shards.capture(
        rule("details", "public.shards", '"update"', f'{more}columns = "details"\npayload = ["id"]')
        + rule("label", "public.shards", '"update"', f'{more}payload = {{ was = "old.label" }}')
    )
    shards.run(f"insert into public.shards values (1, 'north', 5, 'a', '{value}')")
    shards.run("update public.shards set region = 'south'")
    assert shards.events() == [("label", {"was": "a"})]


def test_move_of_a_row_that_is_not_valid_jsonb_is_an_error_event(
    shards: Application, deferred: bool
) -> None:
    shards.run("alter table public.shards add details json")
    shards.capture(shard_rules(deferred=deferred, only="update"))
    shards.run(r"""insert into public.shards values (1, 'north', 5, 'a', '"\u0000"')""")
    shards.run("update public.shards set region = 'south'")
    assert shards.events() == [
        ("shard.update", {"_capture_error": "unsupported Unicode escape sequence"})
    ]


def test_move_rolled_back_to_a_savepoint_is_no_event(ruled: Application) -> None:
    ruled.run("insert into public.shards values (1, 'north', 5, 'a'), (2, 'north', 5, 'b')")
    ruled.events()
    with ruled.connection.transaction():
        with ruled.connection.transaction(force_rollback=True):
            ruled.run("update public.shards set region = 'south'")
            ruled.run("delete from public.shards where id = 2")
        ruled.run("update public.shards set region = 'east' where id = 1")
        with ruled.connection.transaction():
            ruled.run("update public.shards set region = 'south' where id = 2")
    assert shape(ruled.events()) == [("update", 1), ("update", 2)]


def test_partition_is_captured_while_attached(ruled: Application) -> None:
    ruled.run(
        "create table public.west (label text, total int, id int, region text)",
        "insert into public.west values ('before', 1, 1, 'west')",
    )
    assert ruled.events() == []
    ruled.run(
        "alter table public.shards attach partition public.west for values in ('west')",
        "insert into public.shards values (2, 'west', 2, 'a')",
        "update public.shards set region = 'north' where id = 1",
        "update public.shards set region = 'west', label = 'back' where id = 1",
    )
    events = ruled.events()
    assert shape(events) == [("insert", 2), ("update", 1), ("update", 1)]
    assert events[1][1]["was"] == ["west", "1", "before"]
    assert events[2][1]["now"] == ["west", "1", "back"]
    ruled.run(
        "alter table public.shards detach partition public.west",
        "insert into public.west values ('after', 3, 3, 'west')",
    )
    assert ruled.events() == []


def test_delete_and_insert_in_one_statement_count_as_a_move(northern: Application) -> None:
    northern.run(
        "with gone as (delete from public.shards where id = 1 returning *)"
        " insert into public.shards select 2, 'south', 5, 'b' from gone"
    )
    # Triggers cannot distinguish this from a move; two statements they can.
    assert shape(northern.events()) == [("update", 2)]
    northern.run(
        "begin",
        "delete from public.shards where id = 2",
        "insert into public.shards values (3, 'north', 5, 'c')",
        "commit",
    )
    assert shape(northern.events()) == [("delete", 2), ("insert", 3)]


@pytest.mark.parametrize("savepoint", [False, True])
def test_row_inserted_and_moved_in_one_transaction_is_no_update(
    ruled: Application, savepoint: bool
) -> None:
    with ruled.connection.transaction():
        with ruled.connection.transaction() if savepoint else nullcontext():
            ruled.run("insert into public.shards values (1, 'north', 5, 'a')")
        ruled.run("update public.shards set region = 'south'")
    assert shape(ruled.events()) == [("insert", 1), ("delete", 1), ("insert", 1)]


def test_row_of_a_younger_transaction_moves_normally(ruled: Application) -> None:
    other = Application(ruled.url)
    with ruled.connection.transaction():
        ruled.run("insert into public.shards values (1, 'east', 5, 'a')")
        other.run("insert into public.shards values (2, 'north', 5, 'b')")
        other.connection.close()
        ruled.run("update public.shards set region = 'south' where id = 2")
    assert sorted(shape(ruled.events())) == [("insert", 1), ("insert", 2), ("update", 2)]


def test_locking_a_moved_row_leaves_one_update(northern: Application) -> None:
    northern.together(
        "update public.shards set region = 'south'",
        # As a foreign key locks the row it references.
        "select from public.shards for key share",
    )
    assert shape(northern.events()) == [("update", 1)]


def test_moved_row_can_change_again(northern: Application, deferred: bool) -> None:
    northern.together(
        "update public.shards set region = 'south'", "update public.shards set label = 'b'"
    )
    # At commit, the command that moved the row is no longer known.
    move = [("delete", 1), ("insert", 1)] if deferred else [("update", 1)]
    assert shape(northern.events()) == [*move, ("update", 1)]


def test_ten_thousand_deletes_make_an_event_each(shards: Application, deferred: bool) -> None:
    shards.capture(shard_rules(deferred=deferred, only="delete"))
    shards.run(
        "insert into public.shards"
        " select i, case when i % 2 = 0 then 'north' else 'south' end, i, 'x'"
        " from generate_series(1, 10000) i",
        "delete from public.shards",
    )
    deleted = [number for _, number in shape(shards.events())]
    assert sorted(deleted) == [*range(1, 10001)]


def test_delete_and_insert_in_one_transaction_are_no_move(northern: Application) -> None:
    northern.together(
        "delete from public.shards",
        "insert into public.shards values (2, 'south', 5, 'b')",
        "update public.shards set label = 'c'",
    )
    assert shape(northern.events()) == [("delete", 1), ("insert", 2), ("update", 2)]


def test_rewritten_rows_are_never_mistaken_for_moves(ruled: Application) -> None:
    expected: list[tuple[str, int]] = []
    with ruled.connection.transaction():
        for _ in range(2):
            ruled.run(
                "insert into public.shards select i, 'north', i, 'x' from generate_series(1, 9) i"
            )
            expected += [("insert", number) for number in range(1, 10)]
        # Each delete removes two rows, so PostgreSQL uses up combo command ids faster than
        # command ids.
        for number in range(1, 10):
            ruled.run(f"delete from public.shards where id = {number}")
            expected += [("delete", number)] * 2
        for number in range(20, 40):
            ruled.run(f"insert into public.shards values ({number}, 'south', 1, 'y')")
            expected.append(("insert", number))
    assert shape(ruled.events()) == expected


def test_rolled_back_update_makes_no_move_of_delete_and_insert(northern: Application) -> None:
    with northern.connection.transaction():
        northern.run("delete from public.shards")
        northern.run("insert into public.shards values (2, 'south', 5, 'b')")
        with northern.connection.transaction(force_rollback=True):
            northern.run("update public.shards set label = 'never'")
    assert shape(northern.events()) == [("delete", 1), ("insert", 2)]


def test_row_replaced_within_a_partition_is_no_move(northern: Application) -> None:
    northern.run(
        "with gone as (delete from public.shards where id = 1 returning *)"
        " insert into public.shards select id + 1, region, total, label from gone"
    )
    assert shape(northern.events()) == [("delete", 1), ("insert", 2)]


def test_truncating_a_partitioned_table_is_one_event(shards: Application) -> None:
    shards.capture(rule("emptied", "public.shards", '"truncate"', ""))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')", "truncate public.shards")
    assert shards.events() == [("emptied", {})]


def test_rule_on_a_partition_sees_moves_as_insert_and_delete(shards: Application) -> None:
    shards.capture(rule("n", "public.north", '["insert", "delete"]', 'payload = { op = "tg_op" }'))
    shards.run(
        "insert into public.shards values (1, 'north', 5, 'a'), (2, 'south', 5, 'b')",
        "update public.shards set region = 'south' where id = 1",
    )
    assert [payload["op"] for payload in shards.payloads()] == ["INSERT", "DELETE"]
