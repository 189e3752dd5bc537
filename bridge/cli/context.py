"""Load what commands need: settings, rules and a database session. Errors become one line."""

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from bridge.capture.rules import Rule, RuleError, load_rules
from bridge.cli.output import MISUSED, fail
from bridge.database.migrate import InstallError
from bridge.database.sessions import Connection, SessionError, one_line_with_hint, open_session
from bridge.operations.status import StatusError
from bridge.settings import DEFAULT_PRESET, Settings, SettingsError, config_text, load_settings
from bridge.webhooks.errors import InvalidInputError, NotFoundError, WebhookError


def read_settings(**given: object) -> Settings:
    """Read the settings, overridden by ``given``, or exit with code 2."""
    try:
        return load_settings(**given)
    except SettingsError as error:
        fail(str(error), MISUSED)


def read_rules(settings: Settings) -> list[Rule]:
    """Read the capture rules, or exit with code 2."""
    try:
        return load_rules(config_text(), settings.preset, DEFAULT_PRESET)
    except (RuleError, SettingsError) as error:
        fail(str(error), MISUSED)


@contextmanager
def database_session(settings: Settings) -> Iterator[Connection]:
    """Connect to the database; any database error inside the context ends the command."""
    with one_line_errors(), open_session(settings.session_url) as connection:
        connection.execute("select set_config('bridge.actor', %s, false)", [json.dumps(_actor())])
        yield connection


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an expected error into one line and an exit code."""
    try:
        yield
    except InvalidInputError as error:
        fail(str(error), MISUSED)
    except NotFoundError as error:
        group = "dead-letters" if error.what == "dead letter" else "webhooks"
        fail(f"{error}; see: pgbridge {group} list")
    except (InstallError, SessionError, WebhookError, StatusError) as error:
        fail(str(error))
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        fail("pgbridge is not installed in this database; run: pgbridge init")
    except psycopg.Error as error:
        fail(one_line_with_hint(error))


def _actor() -> dict[str, str]:
    """Return who runs this command, for the audit log."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return {"via": "cli", "actor": f"{user}@{socket.gethostname()}"}
