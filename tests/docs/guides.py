"""The fenced blocks of the documentation, for the tests that run them."""

from __future__ import annotations

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

#: Kind and text.
Block = tuple[str, str]

ROOT = Path(__file__).parents[2]
#: What a command of the documentation may take.
SECONDS = 120

#: The pages whose commands are run, and the tests that do. A page with commands has to be here.
RUN_BY = {
    "README.md": "tests/docs/test_guides.py::test_the_commands_of_the_readme_run",
    # Its commands are those of README.md, which are run.
    "README.ru.md": "tests/docs/test_readme_ru.py::"
    "test_the_russian_page_says_what_the_english_one_says",
    "docs/access.md": "tests/docs/test_guides.py::test_the_commands_of_the_page_on_access_run",
    "docs/capture.md": "tests/docs/test_capture_guide.py::test_tutorial_works_as_printed",
    "docs/dashboard.md": "tests/docs/test_guides.py::test_a_dashboard_connects_as_the_page_says",
    "docs/first-steps.md": "tests/docs/test_first_steps.py::"
    "test_the_first_steps_lead_to_a_verified_webhook",
    "docs/install.md": "tests/docs/test_install_guides.py::"
    "test_an_installation_goes_as_the_page_says",
    "docs/metrics.md": "tests/system/test_monitoring.py::test_the_commands_of_the_page_run",
    "docs/logs.md": "tests/system/test_logs.py::test_the_commands_of_the_page_run",
    "docs/operate.md": "tests/docs/test_guides.py::test_every_look_of_the_runbook_can_be_had",
    "docs/receivers.md": "tests/docs/test_guides.py::test_a_receiver_gets_what_the_page_shows",
    "docs/roles.md": "tests/docs/test_roles_guide.py::test_the_sql_of_the_page_sets_the_logins_up",
    "docs/upgrade.md": "tests/docs/test_install_guides.py::"
    "test_a_database_is_upgraded_restored_and_cleared_as_the_page_says",
}

_SYSTEMD = "there is no systemd where the tests run; test_layout.py has systemd look at the unit"
_DOCKER = "there is no Docker where the tests run; test_layout.py looks at the composition"
_PROXY = "the proxy of this machine is not the tests'; test_proxies.py runs both, as they are"
_SERVES = "it runs until it is ended"
#: Commands that are not run as they stand: page and first line, and why not.
NOT_RUN = {
    (
        "README.md",
        "make demo     # a shop bot, its PostgreSQL, the bridge and a webhook receiver",
    ): ("test_first_steps.py has the demo run; the other command is the one that runs this"),
    ("README.md", "python3 -m venv /opt/pgbridge"): "as on docs/install.md",
    (
        "README.md",
        "pgbridge run     # set BRIDGE_PORT=8090 if the bot already uses 8080",
    ): f"{_SERVES}; the test of the page has a bridge run",
    ("docs/install.md", "python3 -m venv /opt/pgbridge"): "it downloads, and writes to /opt; "
    "tests/packaging/test_wheel.py installs the same",
    ("docs/install.md", "cp examples/pgbridge.service /etc/systemd/system/"): _SYSTEMD,
    ("docs/install.md", "docker compose build"): _DOCKER,
    (
        "docs/metrics.md",
        "GRAFANA_PASSWORD=choose-one docker compose --profile monitoring up -d",
    ): _DOCKER,
    ("docs/install.md", "cp examples/nginx.conf /etc/nginx/pgbridge.conf"): _PROXY,
    ("docs/install.md", "cp examples/Caddyfile /etc/caddy/Caddyfile"): _PROXY,
    ("docs/install.md", "curl https://example.org/webhooks"): "it needs a name and a certificate; "
    "test_proxies.py asks the same of both proxies",
    ("docs/receivers.md", "WEBHOOK_SECRET=your-secret python3 examples/receivers/receiver.py"): (
        f"{_SERVES}; test_a_receiver_gets_what_the_page_shows has it run"
    ),
    ("docs/receivers.md", "WEBHOOK_SECRET=your-secret node examples/receivers/receiver.mjs"): (
        f"{_SERVES}; test_receiver_examples.py has it run"
    ),
    ("docs/receivers.md", "WEBHOOK_SECRET=your-secret go run examples/receivers/receiver.go"): (
        f"{_SERVES}; test_receiver_examples.py has it run"
    ),
    (
        "docs/roles.md",
        "BRIDGE_DATABASE_URL=postgresql://shop_owner:…@127.0.0.1/shop pgbridge init",
    ): "the test of the page has init run as the same role",
    (
        "docs/roles.md",
        "export BRIDGE_DATABASE_URL=postgresql://shop_bridge:choose-one@127.0.0.1/shop",
    ): f"{_SERVES}; the test of the page looks whether that role lacks any right",
    ("docs/upgrade.md", "systemctl restart pgbridge"): _SYSTEMD,
    ("docs/upgrade.md", "systemctl stop pgbridge"): _SYSTEMD,
    ("docs/upgrade.md", "systemctl disable --now pgbridge"): _SYSTEMD,
}

#: What no two runs have in common, and what stands in its place in both.
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
    """Return the section of a page with this number; 0 is what stands before the first."""
    return re.split(r"^## (?=\d+\. )", text, flags=re.M)[number]


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def first_line(text: str) -> str:
    """Return by what a block is known in ``NOT_RUN``."""
    return text.split("\n", 1)[0]


def statements(text: str) -> list[str]:
    """Return the statements of a block of SQL: each ends in a semicolon and an empty line."""
    return [each for each in re.split(r";\n(?:\n|$)", text) if each]


def shows(shown: str, real: str) -> None:
    """Hold what a page shows against what really came. ``…`` stands for anything."""
    for pattern, stand_in in VARYING.items():
        shown, real = re.sub(pattern, stand_in, shown), re.sub(pattern, stand_in, real)
    if not re.fullmatch(".*?".join(map(re.escape, shown.split("…"))), real, re.S):
        assert real == shown, f"the page shows something else than\n{real}"


@dataclass
class Shell:
    """Somebody who follows a page: in a shell and in psql, on a machine that is not the page's.

    Args:
        page: as in ``RUN_BY``.
        directory: where commands are run.
        server: whose psql, pg_dump and the like are on the path.
        url: of the database, for SQL and, if ``stands_for`` says nothing else, for commands.
        stands_for: what this machine has in the place of what the page says.
    """

    page: str
    directory: Path
    server: EmbeddedPostgres
    url: str
    stands_for: dict[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Return a text of the page with what this machine has."""
        for written, here in self.stands_for.items():
            text = text.replace(written, here)
        return text

    def run(self, text: str) -> str:
        """Run a block of commands; return what it prints, which is nothing if it is not to run."""
        if (self.page, first_line(text)) in NOT_RUN:
            return ""
        for program in ("bash", "curl"):
            if shutil.which(program) is None:
                pytest.skip(f"no {program} here: the commands of {self.page} cannot be run")
        programs = self.directory / "bin"
        programs.mkdir(exist_ok=True)
        # An answer other than 2xx is a failure, and only an answer is printed.
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
        """Run a block of SQL, as whoever ``url`` names."""
        with psycopg.connect(self.url, autocommit=True) as psql:
            for statement in statements(self.here(text)):
                psql.execute(statement.encode())

    def follow(self, text: str) -> None:
        """Run all commands and all SQL of a text, in order."""
        for kind, block in blocks(text):
            if kind == "sh":
                self.run(block)
            elif kind == "sql":
                self.ask(block)
