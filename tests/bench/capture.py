"""The cost of capture: the application's transactions/s with triggers, relative to none.

One transaction is a payment of the shop bot: INSERT transactions, UPDATE users, on its own tables
with their indexes and foreign keys, with fsync. Every variant has its own database, and the
variants alternate, so that changes in the machine's speed affect all of them.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import psycopg
import trio

from bridge.capture.rules import load_preset, parse_rules
from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.result import Result, new_database
from tests.system.processes import running

CLIENTS = (1, 4, 16)
ROUNDS = 5
SECONDS = 5
USERS = 10_000
BULK_ROWS = 50_000

PAYMENT = r"""
\set user random(1, 10000)
\set payment random(1, 1000000000000000000)
begin;
insert into public.transactions (user_id, type, amount_kopeks, description, payment_method,
                                 external_id, is_completed, created_at, completed_at)
values (:user, 'deposit', 10050, 'Top-up of the balance', 'card', 'ext-' || :payment, true,
        now(), now());
update public.users set balance_kopeks = balance_kopeks + 10050, updated_at = now()
where id = :user;
commit;
"""

#: One event per payment, with columns as its payload.
ONE_RULE = parse_rules("""
[[capture]]
event = "payment.made"
table = "public.transactions"
on = "insert"
payload = ["id", "user_id", "type", "amount_kopeks", "payment_method", "external_id",
           "is_completed", "description"]
""")
#: What other tools do, as a trigger on the same table.
ROW_IN_NOTIFY = """
create function public.notify_row() returns trigger language plpgsql as $$
begin
    perform pg_notify('transactions', row_to_json(new)::text);
    return null;
end $$;
create trigger notify_row after insert on public.transactions
    for each row execute function public.notify_row();
"""
#: An event log with the columns and indexes of Hasura's, written by a similar trigger.
EVENT_LOG = """
create table public.event_log (
    id text primary key default gen_random_uuid(),
    schema_name text not null, table_name text not null, trigger_name text not null,
    payload jsonb not null,
    delivered boolean not null default false, error boolean not null default false,
    tries integer not null default 0, created_at timestamp not null default now(),
    locked timestamptz, next_retry_at timestamp, archived boolean not null default false);
create index on public.event_log (trigger_name);
create index on public.event_log (locked);
create index on public.event_log (created_at)
    where delivered = false and error = false and archived = false;
create function public.log_event() returns trigger language plpgsql as $$
begin
    insert into public.event_log (schema_name, table_name, trigger_name, payload)
    values (tg_table_schema, tg_table_name, 'transaction_created',
            json_build_object('op', tg_op, 'data',
                              json_build_object('old', null, 'new', row_to_json(new))));
    return null;
end $$;
create trigger log_event after insert on public.transactions
    for each row execute function public.log_event();
"""


def run(server: EmbeddedPostgres) -> list[Result]:
    return [*trio.run(_payments, server), *_bulk(server)]


@asynccontextmanager
async def _variants(server: EmbeddedPostgres) -> AsyncIterator[dict[str, str]]:
    """Set up every variant and run its bridge; yield the URLs of the databases."""
    urls = {}
    async with AsyncExitStack() as bridges:
        for name, rules in {
            "bare": [],
            "quiet": ONE_RULE,
            "preset": load_preset("telegram-shop"),
            "adaptive": ONE_RULE,
            "notify": ONE_RULE,
            "rows in NOTIFY": [],
            "event log": [],
        }.items():
            url = urls[name] = new_database(server, rules)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    "insert into public.users (telegram_id, auth_type, balance_kopeks)"
                    " select n, 'telegram', 0 from generate_series(1, %s) as n",
                    (USERS,),
                )
                if name == "rows in NOTIFY":
                    connection.execute(ROW_IN_NOTIFY)
                elif name == "event log":
                    connection.execute(EVENT_LOG)
            if name in ("adaptive", "notify"):
                await bridges.enter_async_context(running(url, doorbell=name))
        yield urls


async def _payments(server: EmbeddedPostgres) -> list[Result]:
    results = []
    async with _variants(server) as urls:
        for clients in CLIENTS:
            rates: dict[str, list[float]] = {name: [] for name in urls}
            for _ in range(ROUNDS):
                for name, url in urls.items():
                    rates[name].append(_rate(server, url, clients))
            results += _results(clients, rates)
    return results


def _results(clients: int, rates: dict[str, list[float]]) -> list[Result]:
    """Return medians over the rounds; ratios are medians of the ratio of each round."""
    many = clients == max(CLIENTS)

    def over(name: str, reference: str, title: str, mark: str = "") -> Result:
        return Result(
            f"capture, {clients} clients: {title}",
            median(rates[name]),
            median(rates[reference]),
            "tx/s",
            {"bare": "no triggers", "notify": "every commit rings"}[reference],
            mark if many else "",
            median_ratio=median(a / b for a, b in zip(rates[name], rates[reference], strict=True)),
        )

    return [
        over("quiet", "bare", "a rule, doorbell quiet", ">= 0.85"),
        over("preset", "bare", "the bot's preset, two events, quiet"),
        over("adaptive", "bare", "and the bridge draining", ">= 0.6"),
        over("adaptive", "notify", "the bridge draining", ">= 1.8"),
        over("notify", "bare", "BRIDGE_DOORBELL=notify"),
        over("rows in NOTIFY", "bare", "a NOTIFY with the row"),
        over("event log", "bare", "an event log as Hasura's"),
    ]


def _rate(server: EmbeddedPostgres, url: str, clients: int) -> float:
    """Run payments for a while; return the commits per second."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate public.transactions")
        if connection.execute("select to_regclass('public.event_log')").fetchone() != (None,):
            connection.execute("truncate public.event_log")
        connection.execute("vacuum public.users")
        connection.execute("checkpoint")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(PAYMENT)
        script.flush()
        done = subprocess.run(
            [
                *[str(server.bin / "pgbench"), "--no-vacuum", "--protocol=simple"],
                *[f"--client={clients}", f"--jobs={min(clients, 2)}", f"--time={SECONDS}"],
                *[f"--file={script.name}", url],
            ],
            capture_output=True,
            check=True,
        )
    rate = re.search(rb"tps = ([0-9.]+)", done.stdout)
    assert rate is not None
    _drained(url)
    return float(rate[1])


def _drained(url: str) -> None:
    """Wait until the bridge has caught up; without a bridge, empty the outbox."""
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("select to_regclass('bridge.drainer')").fetchone() == (None,):
            return
        if connection.execute("select count(*) from bridge.drainer").fetchone() == (0,):
            connection.execute("truncate bridge.outbox")
        while connection.execute("select exists (table bridge.outbox)").fetchone() == (True,):
            time.sleep(0.05)


def _bulk(server: EmbeddedPostgres) -> list[Result]:
    """Insert very many rows in one transaction; measure its time and its notifications."""
    statement = (
        "insert into public.transactions (user_id, type, amount_kopeks, is_completed)"
        " select 1, 'deposit', n, true from generate_series(1, %s) as n"
    )
    spent: dict[str, list[float]] = {"bare": [], "captured": []}
    rings = 0
    urls = {name: new_database(server, ONE_RULE if name == "captured" else []) for name in spent}
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("insert into public.users (auth_type) values ('x')")
    with psycopg.connect(urls["captured"], autocommit=True) as listener:
        listener.execute("listen bridge_outbox")
        listener.execute("select setval('bridge.doorbell', 0)")
        for _ in range(ROUNDS):
            for name, url in urls.items():
                with psycopg.connect(url, autocommit=True) as connection:
                    started = time.perf_counter()
                    connection.execute(statement, (BULK_ROWS,))
                    spent[name].append(time.perf_counter() - started)
                    connection.execute("truncate public.transactions")
            rings = max(rings, len(list(listener.notifies(timeout=0.5))))
    return [
        Result(
            f"capture, one transaction of {BULK_ROWS:,} rows ({rings} notification)",
            median(spent["captured"]),
            median(spent["bare"]),
            "s",
            "no triggers",
        )
    ]
