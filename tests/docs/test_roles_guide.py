"""docs/roles.md lists the actual rights, and its SQL works."""

import re
from collections.abc import Mapping
from typing import Any

import psycopg

from bridge.cli.main import COMMANDS
from bridge.database.rights import READER, ROLES, missing_rights
from bridge.database.sessions import fetch
from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, init
from tests.docs.guides import blocks, guide
from tests.integration.doctor.conftest import diagnose
from tests.system.processes import as_role

Bot = psycopg.Connection[tuple[Any, ...]]

PAGE = guide("roles.md")
#: Columns of the bot's table that the bridge reads.
TOKEN_COLUMNS = "id, name, token_hash, is_active, expires_at"
#: The bot's table.
BOT_TOKENS = (
    "create table public.web_api_tokens (id serial primary key, name varchar(255),"
    " token_hash varchar(128) unique, token_prefix varchar(32), is_active boolean,"
    " expires_at timestamptz, last_used_at timestamptz, last_used_ip varchar(64))"
)


def _cell(rows: list[Mapping[str, Any]]) -> str:
    """Format the rights of a role on an object."""
    parts = []
    for row in rows:
        of_columns = ""
        if row["columns"]:
            # The page names the excluded columns instead of long lists.
            few = row["columns"].count(",") < 3
            of_columns = f" ({row['columns']})" if few else " (columns)"
        parts.append(row["privileges"] + of_columns)
    return ", ".join(parts)


def table(rows: list[dict[str, Any]]) -> str:
    """Format the list of rights like the page."""
    objects = dict.fromkeys((row["kind"], row["object"]) for row in rows)
    lines = []
    for kind, name in objects:
        cells = [
            _cell([r for r in rows if (r["role"], r["kind"], r["object"]) == (role, kind, name)])
            for role in ROLES
        ]
        spelt = f"{kind} `{name.removeprefix('bridge.')}`" if kind != "schema" else "the schema"
        lines.append(f"| {spelt} | {cells[0]} | {cells[1]} |\n".replace("|  |", "| |"))
    return "".join(lines)


def test_page_lists_the_actual_rights(bot: Bot) -> None:
    assert table(fetch(bot, "rights")) in PAGE


SQL = [text for kind, text in blocks(PAGE) if kind == "sql"]


def test_sql_of_the_page_creates_the_logins(own_server: EmbeddedPostgres) -> None:
    first, watcher, bot_tokens, group, move, removal = SQL
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        admin.execute("create role shop_owner login")
        admin.execute("create database shop")
        url = own_server.url("shop")
        with psycopg.connect(url) as shop:
            shop.execute("grant create on schema public to shop_owner; set role shop_owner")
            shop.execute(BOT_TABLES.read_bytes())
            shop.execute(BOT_TOKENS)
        admin.execute(first.encode())
        init(as_role(url, "shop_owner"))
        with psycopg.connect(as_role(url, "shop_owner")) as owner:
            owner.execute(bot_tokens.encode())
        admin.execute(watcher.encode())
        with psycopg.connect(as_role(url, "shop_bridge")) as bridge:
            assert missing_rights(fetch(bridge, "rights")) is None
            bridge.execute(f"select {TOKEN_COLUMNS} from public.web_api_tokens")
        with psycopg.connect(as_role(url, "shop_watcher")) as people:
            assert people.execute("select count(*) from bridge.events").fetchone() == (0,)
        with psycopg.connect(url, autocommit=True) as shop:
            shop.execute("drop schema bridge cascade; create role shop_billing")
            shop.execute(group.encode())
            [options] = re.findall(r"shop(\?options=\S+)' ", PAGE.replace("\n", " "))
            of_group = as_role(url, "shop_owner") + options.replace("?", "&")
            init(of_group)
            assert _owners(shop) == {"shop_group"}
            shop.execute(move.encode())
            assert _owners(shop) == {"shop_owner"}
            assert init(as_role(url, "shop_owner")).steps == []
            found = diagnose(as_role(url, "shop_bridge"))
            assert {found[check].level for check in ("rules", "triggers", "table_owners")} == {"ok"}
            shop.execute("drop schema bridge cascade")
        admin.execute(removal.encode())


def _owners(connection: Bot) -> set[str]:
    """Return the owners of schema bridge and of everything in it."""
    rows = connection.execute("""
        select pg_get_userbyid(nspowner)::text from pg_namespace where nspname = 'bridge'
        union select pg_get_userbyid(relowner) from pg_class
        where relnamespace = 'bridge'::regnamespace
        union select pg_get_userbyid(proowner) from pg_proc
        where pronamespace = 'bridge'::regnamespace
        union select pg_get_userbyid(typowner) from pg_type
        where typnamespace = 'bridge'::regnamespace""").fetchall()
    return {owner for (owner,) in rows}


def test_access_page_has_the_same_grant_on_bot_tokens() -> None:
    [granted] = [text for _, text in blocks(guide("access.md")) if "web_api_tokens" in text]
    [here] = [text for kind, text in blocks(PAGE) if "web_api_tokens" in text]
    assert granted.replace(" to pgbridge;", "") == here.replace(" to shop_bridge;", "")
    assert f"({TOKEN_COLUMNS})" in granted


def test_every_command_of_the_page_exists() -> None:
    known = {entry.name for entry in COMMANDS}
    named = re.findall(r"^\| (`.*`) \| ", PAGE.partition("## 2.")[2].partition("## 3.")[0], re.M)
    words = {name.split()[0] for line in named for name in re.findall(r"`([^`]+)`", line)}
    assert words - known == set()
    assert words >= {"init", "run", "token", "status", "doctor", "uninstall"}


def test_queries_of_the_sql_page_work_as_reader(bot: Bot) -> None:
    statements = [
        statement
        for _, text in blocks(guide("sql.md"))
        for statement in re.split(r";\n(?:\n|$)", text)
        if statement.startswith("select")
        and not re.search(
            r"bridge\.(redeliver_|redeliver\(|retry_|drop_|cancel|pause|resume|emit)", statement
        )
    ]
    assert len(statements) > 12
    bot.execute(f"set session authorization {READER}".encode())
    for statement in statements:
        bot.execute(statement.encode())
