"""No role can run code with the rights of the capture functions, unless it has these rights anyway.

``tenant`` owns the application's tables and is no superuser; ``stranger`` is any other role.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge import assets
from bridge.access.vault import Vault
from bridge.bot.webhooks import import_webhooks
from bridge.capture.apply import set_paused
from bridge.capture.rules import parse_rules
from bridge.database.migrate import InstallError
from bridge.database.sessions import open_session
from bridge.webhooks.errors import WebhookError
from tests.conftest import init
from tests.integration.application import rule
from tests.integration.doctor.conftest import diagnose
from tests.integration.installing import uninstall
from tests.postgres import since
from tests.system.processes import as_role, as_service, complaint, pgbridge

Session = psycopg.Connection[tuple[Any, ...]]

ROLES = ("tenant", "stranger", "colleague", "team")
RULE = rule("order.made", "public.orders", "'insert'", "payload = '*'")
RULES = parse_rules(RULE)
#: A cast to json that PostgreSQL looks up and runs when it converts a value of the type.
CAST = """
create function public.trap(public.mood) returns json language plpgsql as $$
begin
    create table if not exists public.ran_as as select current_user::text as role;
    return '{}';
end $$;
create cast (public.mood as json) with function public.trap(public.mood)"""


@pytest.fixture
def url(empty_url: str) -> Iterator[str]:
    """The superuser's URL of a database with a table of the tenant's."""
    with psycopg.connect(empty_url, autocommit=True) as admin:
        for role in ROLES:
            admin.execute(
                f"do $$ begin create role {role} login; exception when duplicate_object then null;"
                f" end $$; grant create on schema public to {role}".encode()
            )
        name = admin.info.dbname
        admin.execute(f"grant create on database {name} to tenant, team".encode())
    with psycopg.connect(as_role(empty_url, "tenant")) as tenant:
        tenant.execute("create table public.orders (id int primary key, note text)")
    yield empty_url
    with psycopg.connect(empty_url, autocommit=True) as admin:
        admin.execute("revoke team from tenant, stranger, colleague")


@pytest.fixture
def connect(url: str) -> Iterator[Callable[[str], Session]]:
    """Return a function that opens a session of a role."""
    with ExitStack() as stack:
        yield lambda role: stack.enter_context(psycopg.connect(as_role(url, role), autocommit=True))


@pytest.fixture
def admin(connect: Callable[[str], Session]) -> Session:
    return connect("postgres")


@pytest.fixture
def tenant(connect: Callable[[str], Session]) -> Session:
    return connect("tenant")


@pytest.fixture
def stranger(connect: Callable[[str], Session]) -> Session:
    return connect("stranger")


def refusal(url: str, toml: str = RULE) -> str:
    """Return why init refuses."""
    with pytest.raises(InstallError) as raised:
        init(url, parse_rules(toml))
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- the table's owner


def test_table_of_another_role_is_refused(url: str, admin: Session, tenant: Session) -> None:
    assert refusal(url) == (
        "[[capture]] order.made: public.orders belongs to role tenant; so code of tenant could run "
        "with the rights of postgres; run init as tenant, or as a role whose rights tenant "
        "inherits (docs/roles.md, section 1)"
    )
    assert admin.execute("select to_regnamespace('bridge')").fetchone() == (None,)
    # Follow the hint. The trap runs, with the rights that the tenant has anyway.
    init(as_role(url, "tenant"), RULES)
    tenant.execute("create type public.mood as enum ('glad')")
    tenant.execute(CAST.encode())
    tenant.execute("alter table public.orders alter note type public.mood using note::public.mood")
    admin.execute("insert into public.orders values (1, 'glad')")
    assert admin.execute("select * from public.ran_as").fetchall() == [("tenant",)]


def test_dry_run_refuses_the_same(url: str, tmp_path: Path) -> None:
    config = tmp_path / "pgbridge.toml"
    config.write_text(RULE)
    for arguments in (["init"], ["init", "--dry-run"]):
        line = complaint(pgbridge(*arguments, url=url, config=config), 1)
        assert line == f"pgbridge: {refusal(url)}"


def test_superusers_tables_are_accepted(url: str, admin: Session) -> None:
    admin.execute("alter table public.orders owner to postgres")
    admin.execute("grant trigger on public.orders to tenant")
    assert init(as_role(url, "tenant"), RULES).new == ["order.made"]


@since(16, "a membership without inheritance")
@pytest.mark.parametrize("options", ["inherit false", "inherit false, set false"])
def test_member_without_the_rights_is_refused(
    url: str, admin: Session, tenant: Session, options: str
) -> None:
    admin.execute(f"grant team to tenant with {options}".encode())
    tenant.execute("grant trigger on public.orders to team")
    assert "public.orders belongs to role tenant" in refusal(as_role(url, "team"))
    admin.execute("grant team to tenant with inherit true")
    init(as_role(url, "team"), RULES)


def test_group_role_can_own_the_bridge_for_several_owners(
    url: str, admin: Session, tenant: Session, connect: Callable[[str], Session]
) -> None:
    colleague = connect("colleague")
    colleague.execute("create table public.bills (id int, part int) partition by list (part)")
    colleague.execute("create table public.bills_1 partition of public.bills for values in (1)")

    def rules(on: str, more: str = "") -> str:
        return rule("order.made", "public.orders", on, f"payload = '*'\n{more}") + rule(
            "bill.made", "public.bills", on, f"payload = '*'\n{more}"
        )

    admin.execute("grant team to tenant, colleague")
    group = as_role(url, "colleague") + "&options=-c%20role%3Dteam"
    message = refusal(group, rules("'insert'"))
    assert "grant it the right trigger on the table and its partitions" in message
    tenant.execute("grant trigger on public.orders to team")
    colleague.execute("grant trigger on public.bills, public.bills_1 to team")
    for version in (
        rules("'insert'"),
        rules("['insert', 'delete']"),
        rules("'insert'", "deferred = true"),
        rules("'insert'"),
    ):
        assert len(init(group, parse_rules(version)).steps) >= 2
        tenant.execute("insert into public.orders values (1); delete from public.orders")
        # The application's migrations still work.
        colleague.execute("create table public.bills_2 partition of public.bills for values in (2)")
        colleague.execute("insert into public.bills values (1, 2)")
        colleague.execute("drop table public.bills_2")
        rows = admin.execute("delete from bridge.outbox returning event_type").fetchall()
        assert {event for (event,) in rows} == {"order.made", "bill.made"}
    uninstall(group)


# --- types


@pytest.mark.parametrize(
    ("definition", "name"),
    [
        ("create type public.mood as enum ('glad')", "mood"),
        ("create type public.mood as enum ('glad')", "mood[]"),
        ("create type public.mood as (x int)", "mood"),
        ("create domain public.mood as int", "mood"),
        ("create domain public.mood as int[]", "mood"),
        ("create type public.mood as range (subtype = float8)", "mood"),
        (
            "create type public.mood as range (subtype = float8,"
            " multirange_type_name = public.moods)",
            "moods",
        ),
        (
            "create type public.mood as enum ('glad');"
            "create domain public.moods as public.mood[];"
            "create type public.outer as (inner_one public.moods);"
            "alter type public.outer owner to tenant; alter domain public.moods owner to tenant",
            "outer",
        ),
        (
            "create type public.mood as enum ('glad');"
            "create type public.moods as range (subtype = public.mood);"
            "alter type public.moods owner to tenant",
            "moods",
        ),
        ("create table public.mood (x int)", "mood"),
    ],
    ids=[
        "enum", "array", "composite", "domain", "domain of an array", "range", "multirange",
        "nested", "range of an enum", "row of a table",
    ],
)  # fmt: skip
def test_column_type_of_another_role_is_refused(
    url: str, admin: Session, tenant: Session, definition: str, name: str
) -> None:
    admin.execute(definition.encode())
    kind = "table" if definition.startswith("create table") else "type"
    admin.execute(f"alter {kind} public.mood owner to stranger".encode())
    tenant.execute(f"alter table public.orders add extra public.{name}".encode())
    message = refusal(as_role(url, "tenant"))
    assert (
        "column extra of public.orders uses type public.mood, which belongs to role stranger"
        in message
    )
    # Its owner could create the cast at any time, so also for columns that no rule names.
    narrow = rule("order.made", "public.orders", "'insert'", "payload = ['id']")
    assert "role stranger" in refusal(as_role(url, "tenant"), narrow)
    admin.execute(f"alter {kind} public.mood owner to tenant".encode())
    init(as_role(url, "tenant"), RULES)


def test_refusal_comes_before_the_rule_is_parsed(
    url: str, admin: Session, tenant: Session, stranger: Session
) -> None:
    """Constants are checked by domains while they are parsed."""
    init(as_role(url, "tenant"), RULES)
    stranger.execute("""
        create sequence public.checks;
        grant usage on sequence public.checks to public;
        create function public.trap(int) returns boolean language plpgsql as $$
        begin
            return nextval('public.checks') > 0;
        end $$;
        create domain public.odd as int check (public.trap(value))""")
    tenant.execute("alter table public.orders add odds public.odd[]")
    odd = rule(
        "order.made", "public.orders", "'insert'", "when = \"new.odds = '{1}'\"\npayload = '*'"
    )
    called = "select is_called from public.checks"
    assert "type public.odd, which belongs to role stranger" in refusal(as_role(url, "tenant"), odd)
    diagnose(as_service(url), rules=parse_rules(odd))
    assert admin.execute(called).fetchone() == (False,)
    admin.execute("alter domain public.odd owner to tenant")
    init(as_role(url, "tenant"), parse_rules(odd))
    assert admin.execute(called).fetchone() == (True,)


# --- partitions


def test_partition_of_another_role_is_refused(
    url: str, admin: Session, tenant: Session, stranger: Session
) -> None:
    tenant.execute("create table public.bills (id int, part int) partition by list (part)")
    tenant.execute(
        "create table public.bills_1 partition of public.bills for values in (1)"
        " partition by list (id); create table public.bills_1_1 partition of public.bills_1 default"
    )
    bills = rule("bill.made", "public.bills", "'insert'", "payload = '*'")
    init(as_role(url, "tenant"), parse_rules(bills))
    admin.execute("alter table public.bills_1_1 owner to stranger")
    message = refusal(as_role(url, "tenant"), bills)
    assert "public.bills_1_1 belongs to role stranger" in message
    assert message.endswith(
        "give schema bridge to a role whose rights stranger inherits (docs/roles.md, section 5)"
    )


def test_owner_can_create_partitions(url: str, tenant: Session) -> None:
    """Creating a trigger needs the right to execute its function, also on a new partition."""
    tenant.execute("create table public.bills (id int, part int) partition by list (part)")
    bills = rule("bill.made", "public.bills", "'insert'", "payload = '*'")
    assert "public.bills belongs to role tenant" in refusal(url, bills)
    init(as_role(url, "tenant"), parse_rules(bills))
    tenant.execute("create table public.bills_1 partition of public.bills for values in (1)")


# --- the rules' own SQL


@pytest.mark.parametrize(
    ("definition", "sql", "finding"),
    [
        (
            "create view public.seen as select 1 as id",
            "(select max(id) from public.seen)",
            "public.seen belongs to role stranger",
        ),
        (
            "create table public.seen (id int)",
            "(select max(id) from public.seen)",
            "public.seen belongs to role stranger",
        ),
        (
            "create function public.seen(text) returns text language sql as 'select $1'",
            "public.seen(new.note)",
            "a rule calls public.seen(text), which belongs to role stranger",
        ),
        (
            "create function public.seen(int, text) returns text language sql as 'select $2';"
            "create operator public.### (leftarg = int, rightarg = text, function = public.seen)",
            "new.id operator(public.###) new.note",
            "a rule calls public.###(integer,text), which belongs to role stranger",
        ),
        (
            "create type public.seen as enum ('x')",
            "new.note::public.seen::text",
            "a rule uses type public.seen, which belongs to role stranger",
        ),
    ],
    ids=["view", "table", "function", "operator", "type"],
)
def test_rule_that_refers_to_another_roles_object_is_refused(
    url: str, admin: Session, stranger: Session, definition: str, sql: str, finding: str
) -> None:
    stranger.execute(definition.encode())
    seen = rule("order.made", "public.orders", "'insert'", f'payload = {{x = "{sql}"}}')
    admin.execute("grant select on all tables in schema public to tenant")
    assert finding in refusal(as_role(url, "tenant"), seen)
    condition = rule(
        "order.made", "public.orders", "'insert'", f"when = \"({sql}) is null\"\npayload = '*'"
    )
    assert finding in refusal(as_role(url, "tenant"), condition)


def test_function_that_another_role_could_overload_is_refused(
    url: str, admin: Session, tenant: Session
) -> None:
    admin.execute("revoke create on schema public from colleague, team")
    tenant.execute(
        "create function public.short(text) returns text language sql as 'select left($1, 9)'"
    )
    short = rule(
        "order.made", "public.orders", "'insert'", 'payload = {x = "public.short(new.note)"}'
    )
    message = refusal(as_role(url, "tenant"), short)
    assert "a rule calls a function in schema public, where one can be created by role" in message
    for statement in message.partition("rights of tenant; ")[2].split("; "):
        admin.execute(statement.encode())
    init(as_role(url, "tenant"), parse_rules(short))


def test_expressions_of_any_type_are_accepted(url: str) -> None:
    for sql in (
        "row(new.*)::text",
        "tg_argv",
        "row(1, new.note)",
        "'text'",
        "null",
        "new.note -- x",
    ):
        made = rule("order.made", "public.orders", "'insert'", f'payload = {{x = "{sql}"}}')
        init(as_role(url, "tenant"), parse_rules(made))


# --- an installation that comes to violate it


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("alter table public.orders owner to stranger", "public.orders belongs to role stranger"),
        (
            "alter table public.orders alter note type public.mood using null",
            "column note of public.orders uses type public.mood, which belongs to role stranger",
        ),
        (
            "alter table public.orders add extra public.mood[]",
            "column extra of public.orders uses type public.mood, which belongs to role stranger",
        ),
    ],
    ids=["owner", "type", "column"],
)
def test_later_violation_is_reported_and_can_be_removed(
    url: str, admin: Session, stranger: Session, change: str, finding: str
) -> None:
    owner = as_role(url, "tenant")
    init(owner, RULES)
    stranger.execute("create type public.mood as enum ('glad')")
    assert diagnose(owner, rules=RULES)["table_owners"].level == "ok"
    admin.execute(change.encode())
    for each in (url, as_service(url)):
        found = diagnose(each, rules=RULES)["table_owners"]
        assert found.level == "error"
        assert found.message == finding
        assert found.detail == "so code of stranger could run with the rights of tenant"
        assert found.hint.startswith("give schema bridge to a role whose rights stranger inherits")
    # The hint is true.
    admin.execute("grant trigger on public.orders to tenant")
    assert finding in refusal(owner)
    admin.execute("grant tenant to stranger")
    try:
        assert diagnose(owner, rules=RULES)["table_owners"].level == "ok"
        init(owner, RULES)
    finally:
        admin.execute("revoke tenant from stranger")
    assert init(owner, []).removed == ["order.made"]
    uninstall(owner)


def test_pause_stops_foreign_code_and_resume_refuses_it(
    url: str, admin: Session, stranger: Session
) -> None:
    owner = as_role(url, "tenant")
    init(owner, RULES)
    admin.execute(
        "create type public.mood as enum ('glad'); alter type public.mood owner to stranger;"
        "alter table public.orders alter note type public.mood using null"
    )
    stranger.execute(CAST.encode())
    with open_session(owner) as connection:
        assert set_paused(connection, None, paused=True) == ["order.made"]
        admin.execute("insert into public.orders values (1, 'glad')")
        assert admin.execute("select to_regclass('public.ran_as')").fetchone() == (None,)
        with pytest.raises(InstallError, match="code of stranger could run with the rights of"):
            set_paused(connection, None, paused=False)
        admin.execute("insert into public.orders values (2, 'glad')")
        assert admin.execute("select to_regclass('public.ran_as')").fetchone() == (None,)
        admin.execute("alter type public.mood owner to tenant")
        assert set_paused(connection, None, paused=False) == ["order.made"]


# --- who owns what init creates


def owners(admin: Session) -> set[str]:
    """Return the owners of everything in schema bridge."""
    rows = admin.execute(
        "select relowner::regrole::text from pg_class where relnamespace = 'bridge'::regnamespace"
        " union select proowner::regrole::text from pg_proc"
        " where pronamespace = 'bridge'::regnamespace"
    ).fetchall()
    return {owner for (owner,) in rows}


def test_superusers_init_leaves_everything_to_the_schemas_owner(
    url: str, admin: Session, tenant: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(as_role(url, "tenant"), RULES)
    changed = rule("order.made", "public.orders", "'delete'", "payload = '*'")
    added = rule("order.changed", "public.orders", "'update'", "payload = '*'")
    last = max(number for number, _ in numbered())
    with monkeypatch.context() as patched:
        newer = [*numbered(), (last + 1, "create table bridge.newer ();")]
        patched.setattr(
            assets, "migrations", lambda: [(f"{n:04}_verb.sql", text) for n, text in newer]
        )
        assert init(url, parse_rules(changed + added)).new == ["order.changed"]
    assert owners(admin) == {"tenant"}


def numbered() -> list[tuple[int, str]]:
    return [(int(name[:4]), text) for name, text in assets.migrations()]


def test_function_with_other_rights_is_reported_and_repaired(url: str, admin: Session) -> None:
    init(as_role(url, "tenant"), RULES)
    admin.execute("alter function bridge.capture_order_made() owner to postgres")
    found = diagnose(as_role(url, "tenant"), rules=RULES)["triggers"]
    assert found.level == "error"
    assert "order.made: its function belongs to postgres, who must run init" in found.message
    assert init(url, RULES).changed == ["order.made"]
    assert owners(admin) == {"tenant"}
    assert diagnose(as_role(url, "tenant"), rules=RULES)["triggers"].level == "ok"


# --- the bot's webhooks


def test_webhooks_of_another_role_are_not_imported(
    url: str, admin: Session, stranger: Session
) -> None:
    init(as_role(url, "tenant"), RULES)
    stranger.execute("""
        create function public.trap() returns text language plpgsql as $$
        begin
            create table public.ran_as as select current_user::text as role;
            return 'x';
        end $$;
        create view public.webhooks as
        select public.trap() as name, 'https://example.com/'::text as url, '*'::text as event_type;
        grant select on public.webhooks to bridge_service""")
    for role in (as_service(url), url):
        with (
            open_session(role) as connection,
            pytest.raises(WebhookError, match=r"public\.webhooks belongs to role stranger"),
        ):
            import_webhooks(connection, Vault(()), dry_run=True, most=10)
    assert admin.execute("select to_regclass('public.ran_as')").fetchone() == (None,)
