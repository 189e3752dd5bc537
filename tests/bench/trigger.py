"""Where a trigger's time goes: microseconds per one-row statement, compared with no trigger.

Each form adds one thing to the previous one; the last is a rendered rule. Statements run in a loop
inside the server without commits, which leaves only processor time.
"""

import random
import time
from statistics import median

import psycopg

from bridge.capture.rules import parse_rules
from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.result import Result, new_database

STATEMENTS = 5_000
ROUNDS = 15

COLUMNS = [
    *["id", "user_id", "type", "amount_kopeks"],
    *["payment_method", "external_id", "is_completed", "description"],
]
RULE = parse_rules(
    "[[capture]]\nevent = 'made'\ntable = 'public.transactions'\non = 'insert'\n"
    f"payload = {COLUMNS}"
)
_VALUE = "jsonb_build_object({})".format(", ".join(f"'{name}', new.{name}" for name in COLUMNS))
_PAYLOAD = f"v := {_VALUE};"
_SWITCH = (
    "exit guarded when case when current_setting('bridge.capture', true) = 'off'"
    " then pg_has_role(session_user, current_user, 'member') end; "
)
_GUARD = "<<guarded>> begin {} exception when others then v := null; end;"
_OUTBOX = "insert into bridge.outbox (event_type, payload) values ('made', v);"
_FLAG = (
    "if pg_sequence_last_value('bridge.doorbell') = 0 then perform pg_notify('bridge_outbox', '');"
    " end if;"
)
_WHOLE = _GUARD.format(_SWITCH + _PAYLOAD) + _OUTBOX + _FLAG
#: Options and body of the function.
FORMS = {
    "an empty function": ("", ""),
    "security definer": ("security definer", ""),
    "its payload, guarded": ("security definer", _GUARD.format(_PAYLOAD)),
    "the row in the outbox": ("security definer", _GUARD.format(_PAYLOAD) + _OUTBOX),
    "a look at the doorbell": ("security definer", _GUARD.format(_PAYLOAD) + _OUTBOX + _FLAG),
    "a look at bridge.capture": ("security definer", _WHOLE),
    "one setting (search_path)": (
        "security definer set search_path = pg_catalog, pg_temp",
        _WHOLE,
    ),
    "four settings more": (
        "security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC'"
        " set datestyle = 'ISO' set intervalstyle = 'postgres' set bytea_output = 'hex'",
        _WHOLE,
    ),
}
LOOP = f"""
create function public.write_rows() returns void language plpgsql as $$
begin
    for i in 1..{STATEMENTS} loop
        insert into public.transactions (user_id, type, amount_kopeks, description, payment_method,
                                         external_id, is_completed)
        values (1, 'deposit', 10050, 'Top-up of the balance', 'card', 'ext-' || i, true);
    end loop;
end $$
"""


def run(server: EmbeddedPostgres) -> list[Result]:
    names = ["no trigger", *FORMS, "a rule of columns, as rendered"]
    urls = {}
    for name in names:
        url = urls[name] = new_database(server, RULE)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("insert into public.users (auth_type) values ('x')")
            connection.execute(LOOP)
            if name != names[-1]:
                connection.execute('drop trigger "#bridge_001_made" on public.transactions')
            if name in FORMS:
                options, body = FORMS[name]
                connection.execute(
                    f"create function public.form() returns trigger language plpgsql {options}"
                    f" as $$ declare v jsonb; begin {body} return null; end $$;"
                    " create trigger form after insert on public.transactions"
                    " for each row execute function public.form()"
                )
    spent: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in random.sample(names, len(names)):
            with psycopg.connect(urls[name], autocommit=True) as connection:
                connection.execute("truncate public.transactions, bridge.outbox")
                started = time.perf_counter()
                connection.execute("select public.write_rows()")
                spent[name].append((time.perf_counter() - started) / STATEMENTS * 1e6)
    bare = median(spent["no trigger"])
    return [
        Result(f"trigger: {name}", bare + _over(spent, name), bare, "µs a statement", "no trigger")
        for name in names[1:]
    ]


def _over(spent: dict[str, list[float]], name: str) -> float:
    """Return the median extra time of a form over no trigger."""
    pairs = zip(spent[name], spent["no trigger"], strict=True)
    return median(with_trigger - without for with_trigger, without in pairs)
