"""Attacks of a role that owns captured tables: on the bridge's work, and for more rights."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import trio
from psycopg import errors

from tests.stress.hostile.scene import SHOP
from tests.stress.hostile.target import Tally, Target, UnexpectedError
from tests.system.processes import SERVICE_LOGIN

Session = psycopg.Connection[tuple[Any, ...]]
#: One round of an attack.
OwnerAttack = Callable[[Target, Session], None]

#: What no owner of a table may do.
_FORBIDDEN = (
    "set role postgres",
    f"set role {SERVICE_LOGIN}",
    f"set role {SHOP}",
    "alter role current_user superuser",
    f"grant {SERVICE_LOGIN} to current_user",
    "create role hostile_friend",
    "alter system set work_mem = '8MB'",
    "alter database template1 set work_mem = '1GB'",
    "select rolpassword from pg_catalog.pg_authid",
    "select pg_catalog.pg_read_file('/etc/passwd')",
    "copy (select 1) to program 'true'",
    f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{SERVICE_LOGIN}'",
    f"select pg_cancel_backend(pid) from pg_stat_activity where usename = '{SERVICE_LOGIN}'",
    "select * from public.users",
    "insert into public.users (auth_type) values ('forged')",
    "alter table public.users disable trigger all",
)
#: Code that tells as whom it runs, for every way in which PostgreSQL runs code of owners.
_CONFESSION = """
create or replace function public.confess_as() returns boolean language plpgsql as $$
begin
    insert into public.ran_as (role) values (current_user);
    return true;
exception when others then
    return true;
end $$;
create or replace function public.confess() returns trigger language plpgsql as $$
begin
    perform public.confess_as();
    perform set_config('search_path', 'hostile, public', false);
    perform set_config('statement_timeout', '50ms', true);
    return new;
end $$;
"""
_CAST = """
drop type if exists public.mood cascade;
create type public.mood as enum ('glad', 'grim');
create function public.mood_as_json(public.mood) returns json language plpgsql as $$
begin
    perform public.confess_as();
    return '"trap"';
end $$;
create cast (public.mood as json) with function public.mood_as_json(public.mood);
"""


def huge_rows(target: Target, session: Session) -> None:
    """Save rows of several megabytes that compress badly or well, and change them."""
    session.execute(
        "insert into public.notes (body)"
        " select string_agg(md5(random()::text), '') from generate_series(1, %s)",
        [target.row_bytes // 32],
    )
    session.execute("insert into public.notes (body) values (repeat('x', %s))", [target.row_bytes])
    session.execute(
        "update public.notes set body = body || 'y' where id = (select max(id) from public.notes)"
    )
    session.execute("delete from public.notes")


def many_rows(target: Target, session: Session) -> None:
    """Commit many rows at once, some of them captured at the commit."""
    with session.transaction():
        session.execute(
            "insert into public.bulk (n) select n from generate_series(1, %s) as n", [target.rows]
        )
        session.execute("update public.bulk set n = n + 1 where n <= %s", [target.rows // 5])
    session.execute("truncate public.bulk")


def own_triggers(_target: Target, session: Session) -> None:
    """Add triggers before and after the bridge's that run code and change settings."""
    for name, when in (("a_first", "before"), ("zz_last", "after")):
        session.execute(
            f"create or replace trigger {name} {when} insert on public.moods"
            " for each row execute function public.confess()".encode()
        )
    with session.transaction():
        session.execute("insert into public.moods (amount) select generate_series(1, 20)")
    session.execute("drop trigger a_first on public.moods; drop trigger zz_last on public.moods")
    session.execute("reset search_path; reset statement_timeout")


def changed_columns(_target: Target, session: Session) -> None:
    """Change types, rename and drop columns; a cast of the new type is a trap."""
    session.execute(
        "alter table public.moods drop if exists mood, drop if exists temper, add mood text"
    )
    session.execute(_CAST)
    session.execute("alter table public.moods alter mood type public.mood using 'glad'")
    session.execute("insert into public.moods (mood, amount) values ('grim', 1)")
    session.execute("alter table public.moods rename mood to temper")
    session.execute("insert into public.moods (amount) values (2)")
    session.execute("alter table public.moods drop temper")
    session.execute("insert into public.moods (amount) values (3)")
    session.execute("delete from public.moods")


def trapped_index(_target: Target, session: Session) -> None:
    """Let policies and indexes of the table run code."""
    _no_traps(session)
    with session.transaction():
        session.execute(
            "create index hostile on public.moods ((public.steady(amount)));"
            "alter table public.moods enable row level security, force row level security;"
            "create policy hostile on public.moods using (public.confess_as()) with check (true)"
        )
    session.execute("insert into public.moods (amount) values (1)")
    _no_traps(session)


def _no_traps(session: Session) -> None:
    with session.transaction():
        session.execute(
            "drop index if exists public.hostile; drop policy if exists hostile on public.moods;"
            "alter table public.moods no force row level security, disable row level security"
        )


def locks(_target: Target, session: Session) -> None:
    """Lock the tables, with uncommitted rows in the outbox."""
    with session.transaction():
        session.execute("insert into public.notes (body) values ('late')")
        session.execute(
            "lock table public.notes, public.bulk, public.moods in access exclusive mode"
        )
        session.execute("select pg_sleep(0.5)")


def strange_json(_target: Target, session: Session) -> None:
    """Save deep and wide JSON."""
    deep = "[" * 1_000 + "]" * 1_000
    session.execute("insert into public.notes (data) values (%s)", [deep])
    nested = '{"a":' * 1_000 + "1" + "}" * 1_000
    session.execute("insert into public.notes (data) values (%s)", [nested])
    session.execute(
        "insert into public.notes (data)"
        " select jsonb_object_agg('k' || n, jsonb_build_array(n, n))"
        " from generate_series(1, 20000) as n"
    )
    session.execute(
        "insert into public.notes (data) select jsonb_agg(n) from generate_series(1, 100000) as n"
    )
    odd = {"\u202e\x1b[2J": "\ud7ff", "type": "user.created", "id": -1, "_capture_error": "no"}
    session.execute("insert into public.notes (data) values (%s)", [json.dumps(odd)])


def more_rights(_target: Target, session: Session) -> None:
    """Try everything that the role may not do."""
    for statement in _FORBIDDEN:
        try:
            session.execute(statement.encode())
        except (errors.InsufficientPrivilege, errors.InvalidGrantOperation):
            continue
        except psycopg.Error as error:
            raise UnexpectedError(f"the table owner's {statement}: {error}") from None
        raise UnexpectedError(f"the table owner was allowed to {statement}")


#: Each attack, and the pause between two rounds in seconds.
CROWDS: tuple[tuple[OwnerAttack, float], ...] = (
    (huge_rows, 10.0),
    (many_rows, 5.0),
    (own_triggers, 0.5),
    (changed_columns, 0.5),
    (trapped_index, 0.5),
    (locks, 0.5),
    (strange_json, 5.0),
    (more_rights, 1.0),
)
NAMES = [attack.__name__ for attack, _ in CROWDS]


async def attack(target: Target, tally: Tally) -> None:
    """Attack until cancelled."""
    with psycopg.connect(target.owner_url, autocommit=True) as session:
        session.execute(_CONFESSION)
        session.execute(
            "create or replace function public.steady(n integer) returns integer language plpgsql"
            " immutable as 'begin perform public.confess_as(); return n; end'"
        )
    async with trio.open_nursery() as nursery:
        for round_, rest_seconds in CROWDS:
            nursery.start_soon(_again_and_again, target, tally, round_, rest_seconds)


async def _again_and_again(
    target: Target, tally: Tally, round_: OwnerAttack, rest_seconds: float
) -> None:
    connect = partial(psycopg.connect, target.owner_url, autocommit=True)
    # Closed with the process: at the end of the attack, a thread may still use it.
    session = await trio.to_thread.run_sync(connect)
    while True:
        tally.rounds[round_.__name__] += 1
        try:
            # The attacks get in each other's way.
            with suppress(errors.DeadlockDetected, errors.LockNotAvailable):
                await trio.to_thread.run_sync(round_, target, session, abandon_on_cancel=True)
        except UnexpectedError as error:
            tally.unexpected[str(error)] += 1
        except psycopg.Error as error:
            # Capture must not fail the application's statements.
            tally.unexpected[f"{round_.__name__}: {error!r}"] += 1
        await trio.sleep(rest_seconds)
