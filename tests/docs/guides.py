"""Run the fenced blocks of the documentation."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from bridge.demo.postgres import EmbeddedPostgres
from tests.system.processes import environment

#: Language and text.
Block = tuple[str, str]

ROOT = Path(__file__).parents[2]
#: Timeout of a command.
SECONDS = 120

#: The test that runs the commands of each page. Every page with commands must be listed.
RUN_BY = {
    "README.md": "tests/docs/test_guides.py::test_readme_commands_run",
    # Same commands as README.md.
    "README.ru.md": "tests/docs/test_readme_ru.py::test_russian_readme_matches_the_english_one",
    "docs/access.md": "tests/docs/test_guides.py::test_access_commands_run",
    "docs/backups.md": "tests/docs/test_backups_guide.py::test_replayed_dump_announces_nothing",
    "docs/capture.md": "tests/docs/test_capture_guide.py::test_tutorial_works_as_printed",
    "docs/dashboard.md": "tests/docs/test_guides.py::test_dashboard_server_hands_out_tickets",
    "docs/first-steps.md": "tests/docs/test_first_steps.py::"
    "test_first_steps_lead_to_a_verified_webhook",
    "docs/install.md": "tests/docs/test_install_guides.py::test_installation_works_as_written",
    "docs/metrics.md": "tests/system/test_monitoring.py::test_documented_commands_run",
    "docs/logs.md": "tests/system/test_logs.py::test_documented_commands_run",
    "docs/operate.md": "tests/docs/test_guides.py::test_runbook_queries_and_commands_run",
    "docs/receivers.md": "tests/docs/test_guides.py::test_receiver_gets_the_documented_request",
    "docs/roles.md": "tests/docs/test_roles_guide.py::test_sql_of_the_page_creates_the_logins",
    "docs/upgrade.md": "tests/docs/test_install_guides.py::"
    "test_upgrade_restore_and_uninstall_work_as_written",
}

_SYSTEMD = "the tests have no systemd; test_layout.py checks the unit"
_DOCKER = "the tests have no Docker; test_layout.py checks docker-compose.yml"
_PROXY = "needs the machine's own proxy; test_proxies.py runs both configurations"
_SERVES = "it runs until it is stopped"
#: Commands that cannot run: page and first line, and the reason.
NOT_RUN = {
    (
        "README.md",
        "make demo     # a shop bot, its PostgreSQL, the bridge and a webhook receiver",
    ): ("test_first_steps.py runs the demo; the other command runs this test"),
    ("README.md", "python3 -m venv /opt/pgbridge"): "same as in docs/install.md",
    (
        "README.md",
        "pgbridge run     # set BRIDGE_PORT=8090 if the bot already uses 8080",
    ): f"{_SERVES}; the page's test runs a bridge",
    ("docs/install.md", "python3 -m venv /opt/pgbridge"): "it downloads and writes to /opt; "
    "tests/packaging/test_wheel.py installs the same",
    ("docs/install.md", "cp examples/pgbridge.service /etc/systemd/system/"): _SYSTEMD,
    ("docs/install.md", "docker compose build"): _DOCKER,
    (
        "docs/metrics.md",
        "GRAFANA_PASSWORD=choose-one docker compose --profile monitoring up -d",
    ): _DOCKER,
    ("docs/install.md", "cp examples/nginx.conf /etc/nginx/pgbridge.conf"): _PROXY,
    ("docs/install.md", "cp examples/Caddyfile /etc/caddy/Caddyfile"): _PROXY,
    (
        "docs/install.md",
        "curl https://example.org/webhooks",
    ): "it needs a domain and a certificate; "
    "test_proxies.py sends the same requests to both proxies",
    ("docs/receivers.md", "WEBHOOK_SECRET=your-secret python3 examples/receivers/receiver.py"): (
        f"{_SERVES}; test_receiver_gets_the_documented_request runs it"
    ),
    ("docs/receivers.md", "WEBHOOK_SECRET=your-secret node examples/receivers/receiver.mjs"): (
        f"{_SERVES}; test_receiver_examples.py runs it"
    ),
    ("docs/receivers.md", "WEBHOOK_SECRET=your-secret go run examples/receivers/receiver.go"): (
        f"{_SERVES}; test_receiver_examples.py runs it"
    ),
    (
        "docs/roles.md",
        "BRIDGE_DATABASE_URL=postgresql://shop_owner:…@127.0.0.1/shop pgbridge init",
    ): "the page's test runs init as the same role",
    (
        "docs/roles.md",
        "export BRIDGE_DATABASE_URL=postgresql://shop_bridge:choose-one@127.0.0.1/shop",
    ): f"{_SERVES}; the page's test checks that role's rights",
    (
        "docs/roles.md",
        "export BRIDGE_DATABASE_URL='postgresql://shop_owner:…@127.0.0.1/shop?options=-c%20role%3Dshop_group'",
    ): "the page's test runs init with the same options",
    ("docs/upgrade.md", "systemctl restart pgbridge"): _SYSTEMD,
    ("docs/upgrade.md", "systemctl stop pgbridge"): _SYSTEMD,
    ("docs/upgrade.md", "systemctl disable --now pgbridge"): _SYSTEMD,
}

#: Text that differs between runs, and its replacement on both sides.
VARYING = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|\+00:00)": r"<time>\1",
    r"127\.0\.0\.1:\d+": "<address>",
    r"pgb_[\w-]{43}": "<token>",
    r"(webhook-timestamp: )\d{10}\n": r"\1<seconds>\n",
    r"(webhook-signature: v1,)[\w+/]{43}=": r"\1<signature>",
}


def guide(name: str) -> str:
    """Return the text of a page of ``docs/``."""
    return (ROOT / "docs" / name).read_text("utf-8")


def section(text: str, number: int) -> str:
    """Return a section by number; 0 is the text before the first."""
    return re.split(r"^## (?=\d+\. )", text, flags=re.M)[number]


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a text, with their languages."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def first_line(text: str) -> str:
    """Return the first line, which identifies a block in ``NOT_RUN``."""
    return text.split("\n", 1)[0]


def statements(text: str) -> list[str]:
    """Split a block of SQL into statements, which end in a semicolon and an empty line."""
    return [each for each in re.split(r";\n(?:\n|$)", text) if each]


def shows(shown: str, real: str) -> None:
    """Compare documented with actual output. ``…`` matches anything."""
    for pattern, stand_in in VARYING.items():
        shown, real = re.sub(pattern, stand_in, shown), re.sub(pattern, stand_in, real)
    if not re.fullmatch(".*?".join(map(re.escape, shown.split("…"))), real, re.S):
        assert real == shown, f"the page does not match\n{real}"


@dataclass
class Shell:
    """Run a page's commands and SQL on this machine.

    Args:
        page: key in ``RUN_BY``.
        directory: working directory of commands.
        server: provides psql, pg_dump and other programs.
        url: of the database.
        stands_for: texts of the page, such as addresses, and their replacements here.
        settings: passed to commands as ``BRIDGE_*``.
        variables: further environment variables of commands.
    """

    page: str
    directory: Path
    server: EmbeddedPostgres
    url: str
    stands_for: dict[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Return the text with this machine's replacements."""
        for written, here in self.stands_for.items():
            text = text.replace(written, here)
        return text

    def run(self, text: str) -> str:
        """Run a block of commands and return its output; empty if it is in ``NOT_RUN``."""
        if (self.page, first_line(text)) in NOT_RUN:
            return ""
        for program in ("bash", "curl"):
            if shutil.which(program) is None:
                pytest.skip(f"the commands of {self.page} need {program}")
        programs = self.directory / "bin"
        programs.mkdir(exist_ok=True)
        # Make curl fail on errors and print only the response.
        for name, command in {
            "pgbridge": f'{sys.executable} -m bridge "$@"',
            "curl": f'PATH=${{PATH#"{programs}:"}} curl -sS --fail-with-body "$@"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{command}\n", "utf-8")
            (programs / name).chmod(0o755)
        base = environment(self.url, **self.settings)
        base |= self.variables
        base["PATH"] = f"{programs}:{self.server.bin}:{base['PATH']}"
        base["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(text)],
            cwd=self.directory,
            env=base,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def ask(self, text: str) -> None:
        """Run a block of SQL as the user in ``url``."""
        with psycopg.connect(self.url, autocommit=True) as psql:
            for statement in statements(self.here(text)):
                psql.execute(statement.encode())

    def follow(self, text: str) -> None:
        """Run all commands and SQL of a text in order."""
        for kind, block in blocks(text):
            if kind == "sh":
                self.run(block)
            elif kind == "sql":
                self.ask(block)
