"""The ``pgbridge`` command: words and exit codes."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import psycopg
import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from bridge import assets
from bridge.access import tokens
from bridge.access.scopes import EVENTS_READ, SCOPES, ScopeError, checked_scopes
from bridge.access.vault import Vault
from bridge.capture.apply import apply_steps, existing_roles, install_lock, pause, resume
from bridge.capture.models import InstallError
from bridge.capture.plan import plan_install, plan_removal
from bridge.capture.rules import Rule, RuleError, load_rules
from bridge.database import rights
from bridge.database.queries import SessionQueries, run_blocking
from bridge.database.sessions import SessionError, one_line_with_hint, open_session
from bridge.operations import status_screen
from bridge.operations.doctor.examine import examine
from bridge.operations.doctor.framework import Finding
from bridge.operations.status import Status, StatusError, read_status
from bridge.settings import Settings, SettingsError, config_text, load_settings
from bridge.webhooks.errors import InvalidInputError, NotFoundError, WebhookError

if TYPE_CHECKING:
    from bridge.webhooks.operations import Webhooks

#: Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
FAILED = 1
MISUSED = 2

#: How long `status --watch` waits for a table that somebody has locked.
WATCH_LOCK_SECONDS = 5

LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}

app = typer.Typer(
    help="Real-time events and signed webhooks from a PostgreSQL application that must not change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
capture_app = typer.Typer(
    help="Pause and resume capturing, without touching the application's tables.",
    no_args_is_help=True,
)
app.add_typer(capture_app, name="capture")
token_app = typer.Typer(help="Tokens for REST and WebSocket.", no_args_is_help=True)
app.add_typer(token_app, name="token")
webhooks_app = typer.Typer(help="Webhooks: where events are sent.", no_args_is_help=True)
app.add_typer(webhooks_app, name="webhooks")

WebhookId = Annotated[
    int, typer.Argument(min=1, max=2**63 - 1, help="The id that `pgbridge webhooks list` shows.")
]


def main() -> None:
    """Run the command line."""
    app(prog_name="pgbridge")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgbridge {assets.version()}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def init(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL that would run, and run nothing.")
    ] = False,
    create_roles: Annotated[
        bool,
        typer.Option(
            "--create-roles",
            help="Make the roles bridge_service and bridge_reader, where they are not there.",
        ),
    ] = False,
) -> None:
    """Install or update schema bridge and the triggers on the application's tables."""
    settings = _settings()
    rules = _rules(settings)
    quiet = settings.doorbell == "poll"
    with _installing(settings) as connection:
        if dry_run:
            planned = plan_install(
                connection, rules, quiet_doorbell=quiet, create_roles=create_roles
            )
            typer.echo(planned.script() or "-- nothing to do")
        else:
            with install_lock(connection):
                planned = plan_install(
                    connection, rules, quiet_doorbell=quiet, create_roles=create_roles
                )
                apply_steps(
                    connection,
                    planned.steps,
                    lock_timeout_seconds=settings.lock_timeout_seconds,
                    report=_say,
                )
    for remark in planned.remarks:
        _say(f"note: {remark}")
    if rights.SERVICE in planned.missing_roles:
        _say(
            f"note: there is no role {rights.SERVICE}, so `pgbridge run` needs the owner of schema "
            "bridge; for a role that may do what it has to, and no more: "
            "pgbridge init --create-roles"
        )
    _say(planned.summary())


@app.command()
def uninstall(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the triggers, then schema bridge with its events and deliveries."""
    settings = _settings()
    with _installing(settings) as connection, install_lock(connection):
        steps = plan_removal(connection)
        if not steps:
            _say("pgbridge is not installed in this database")
            return
        if not yes and sys.stdin.isatty():
            typer.confirm(
                "Drop schema bridge with all its events, webhooks and deliveries?", abort=True
            )
        apply_steps(
            connection,
            steps,
            lock_timeout_seconds=settings.lock_timeout_seconds,
            report=_say,
        )
        if left := existing_roles(connection):
            _say(
                f"{' and '.join(left)} stay, since other databases of this server may need them; "
                f"if none does: drop role {', '.join(left)}"
            )


@app.command()
def run(
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes that share the port; else BRIDGE_WORKERS."),
    ] = None,
) -> None:
    """Relay events to WebSocket clients and webhooks, until SIGTERM."""
    settings = _settings() if workers is None else _settings(workers=workers)
    from bridge.telemetry.logs import configure_logs

    configure_logs(settings.log_level, settings.log_format)
    if settings.workers == 1:
        _run_bridge(settings)
    else:
        _run_workers(settings)


def _run_bridge(settings: Settings) -> None:
    import structlog
    import trio

    from bridge.daemon.app import StartError, serve
    from bridge.tasks import first_error

    refusal: BaseException | None = None
    has_crashed = False
    try:
        trio.run(serve, settings, _announce)
    except* StartError as errors:
        # Not failing in here: some Pythons wrap what is raised in an except* into a group.
        refusal = first_error(errors)
    except* Exception:
        structlog.get_logger().exception("bridge_crashed")
        has_crashed = True
    if refusal is not None:
        _fail(str(refusal))
    if has_crashed:
        raise SystemExit(FAILED)


def _run_workers(settings: Settings) -> None:
    import structlog
    import trio

    from bridge.daemon.supervisor import WorkersFailedError, supervise

    try:
        in_order = trio.run(supervise, settings, _announce)
    except WorkersFailedError as error:
        _fail(str(error), error.exit_code)
    except Exception:
        structlog.get_logger().exception("supervisor_crashed")
        raise SystemExit(FAILED) from None
    if not in_order:
        raise SystemExit(FAILED)


@app.command(hidden=True)
def worker(number: int) -> None:
    """Run one of the bridges of ``pgbridge run --workers``, which starts it."""
    from bridge.daemon.worker import NoOrdersError, run_worker

    try:
        served = run_worker(number)
    except NoOrdersError as error:
        _fail(str(error), MISUSED)
    if not served:
        raise SystemExit(FAILED)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the database and the connection to it, and say what to fix."""
    settings = _settings()
    findings = examine(settings, _rules(settings))
    failed = any(finding.level == "error" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [asdict(each) for each in findings]}))
    else:
        _print_findings(findings)
    raise typer.Exit(FAILED if failed else 0)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, every two seconds, until Ctrl-C.")
    ] = False,
) -> None:
    """Show how far the bridge on this database has got, running or not."""
    settings = _settings()
    if watch:
        _watch_status(settings, as_json=as_json)
        return
    with _installing(settings) as connection:
        current = read_status(connection)
    if as_json:
        typer.echo(json.dumps(current.to_json()))
        return
    typer.echo("\n".join(_status_lines(current)))


def _watch_status(settings: Settings, *, as_json: bool) -> None:
    """Show the status again and again: a frame in a terminal, else an object or lines each time."""

    @contextmanager
    def connect() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with open_session(settings.session_url) as connection:
            # Whoever looks is to see that somebody has locked the tables, and not an old frame.
            connection.execute(f"set lock_timeout = '{WATCH_LOCK_SECONDS}s'")
            yield connection

    def write(status: Status | None, problem: str) -> None:
        if status is None:
            _say(f"pgbridge: {problem}")
        elif as_json:
            print(json.dumps(status.to_json()), flush=True)
        else:
            print("\n".join(_status_lines(status)), end="\n\n", flush=True)

    console = Console(highlight=False, markup=False, emoji=False)
    # As by Ctrl-C: else a terminal would stay as a screen without a cursor.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _failing_in_a_line(), suppress(KeyboardInterrupt):
        try:
            if as_json or not console.is_terminal:
                status_screen.watch(connect, write)
            else:
                with status_screen.Screen(console) as screen:
                    status_screen.watch(connect, screen.show)
        except BrokenPipeError:
            # Whoever read it has seen enough, and there is nobody for what the buffer still has.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status_lines(status: Status) -> list[str]:
    return [f"{name:<16}{value}" for name, value in status.lines()]


@app.command()
def demo(
    seconds: Annotated[
        float | None,
        typer.Option(min=1.0, help="Stop after so many seconds, settle, and print the totals."),
    ] = None,
) -> None:
    """Show it all: PostgreSQL, a simulated bot, a verifying receiver and the bridge."""
    from bridge.demo.run import run_demo

    raise typer.Exit(run_demo(seconds))


@app.command()
def tail(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="ticket.created, ticket.* or *; else all."),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Begin after this event; else with what is new."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines, as into a pipe, on a terminal, too.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="ws:// or wss://; else ws, at BRIDGE_HOST and BRIDGE_PORT."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many events; else with Ctrl-C.")
    ] = None,
) -> None:
    """Follow the stream of a running bridge, with BRIDGE_TOKEN. A lost connection is made anew.

    On a terminal, a line an event; in a pipe, its JSON. It needs no database.
    """
    try:
        # Whatever the database is: this speaks with the bridge.
        settings = load_settings(database_url="postgresql://")
    except SettingsError as error:
        _fail(str(error), MISUSED)
    import trio

    from bridge.live.selection import PatternError, checked_patterns
    from bridge.tail.follower import Address, AddressError, Follower, TailError, parse_address
    from bridge.tail.run import Output
    from bridge.tail.run import tail as print_stream

    try:
        chosen = sorted(checked_patterns(patterns)) if patterns else []
        address = Address(settings.host, settings.port) if url is None else parse_address(url)
    except PatternError as error:
        _fail(str(error), MISUSED)
    except AddressError as error:
        _fail(f"--url {error}", MISUSED)
    token = settings.token.get_secret_value() if settings.token else ""
    if not re.fullmatch("[!-~]+", token):
        what = "has characters that no header carries" if token else "is not set"
        _fail(f"BRIDGE_TOKEN {what}; `pgbridge token create --name tail` prints a token", MISUSED)
    follower = Follower(address, token, patterns=chosen, since=since)
    try:
        trio.run(print_stream, follower, Output(as_json=as_json), count)
    except TailError as error:
        _fail(str(error))


@capture_app.command("pause")
def capture_pause(
    rule: Annotated[str | None, typer.Argument(help="A rule's event; without one, all.")] = None,
) -> None:
    """Capture nothing from now on. What happens meanwhile is not captured later, either."""
    with _installing(_settings()) as connection, install_lock(connection):
        paused = pause(connection, rule)
    _say(f"paused: {', '.join(paused) or 'nothing; it is paused already'}")


@capture_app.command("resume")
def capture_resume(
    rule: Annotated[str | None, typer.Argument(help="A rule's event; without one, all.")] = None,
) -> None:
    """Capture again what was paused."""
    with _installing(_settings()) as connection, install_lock(connection):
        resumed = resume(connection, rule)
    _say(f"resumed: {', '.join(resumed) or 'nothing; it is at work already'}")


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Option(help="What the token is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What it may do: {', '.join(SCOPES)}; events:read:ticket.* for events of some "
            "types. May be given repeatedly; events:read if it is not."
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="Valid for so many days; else for ever.")
    ] = None,
) -> None:
    """Make a token and print it, alone, on standard output. It is not shown again."""
    if not (name.isprintable() and 1 <= len(name.strip()) <= 255):
        _fail("--name must be 1 to 255 printable characters", MISUSED)
    try:
        scopes = checked_scopes(scope or [EVENTS_READ])
    except ScopeError as error:
        _fail(str(error), MISUSED)
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    token = tokens.new_token()
    with _installing(_settings()) as connection:
        tokens.create_token(connection, name, token, scopes, expires_at)
    typer.echo(token)


@token_app.command("list")
def token_list() -> None:
    """List the tokens: never the tokens themselves, only how they begin."""
    table = _table("id", "name", "begins", "scopes", "created", "expires", "last used", "state")
    with _installing(_settings()) as connection:
        for row in tokens.list_tokens(connection):
            table.add_row(*map(Text, row))
    Console().print(table)


@token_app.command("revoke")
def token_revoke(
    token_id: Annotated[int, typer.Argument(help="The id that `pgbridge token list` shows.")],
) -> None:
    """Make a token invalid, at once and for good."""
    with _installing(_settings()) as connection:
        if not tokens.revoke_token(connection, token_id):
            _fail(f"there is no valid token with id {token_id}")
    _say(f"token {token_id} is revoked")


@webhooks_app.command("list")
def webhooks_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the webhooks with their state, backlog and recent success rate."""
    with _operating() as webhooks:
        rows = [dict(row) for row in run_blocking(webhooks.overview())]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = _table("id", "name", "url", "event type", "state", "pending", "succeeded, last hour")
    for row in rows:
        rate = row.pop("success_rate_hour")
        share = "" if rate is None else f"{rate:g} %"
        table.add_row(*(Text(str(value)) for value in row.values()), share)
    Console().print(table)


@webhooks_app.command("create")
def webhooks_create(
    name: Annotated[str, typer.Option(help="What it is for.")],
    url: Annotated[str, typer.Option(help="Where to send: http or https.")],
    event_type: Annotated[str, typer.Option(help="ticket.created, ticket.* or *.")],
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the key of the signatures from stdin.")
    ] = False,
    generate_secret: Annotated[
        bool, typer.Option("--generate-secret", help="Make a key, and print it, too.")
    ] = False,
    rate_per_second: Annotated[
        float | None, typer.Option(help="Most attempts a second; else there is no limit.")
    ] = None,
    max_concurrency: Annotated[int, typer.Option(help="Most attempts in flight.")] = 4,
    timeout_seconds: Annotated[int, typer.Option(help="Deadline of one attempt.")] = 15,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="One at a time, in the order of events.")
    ] = False,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help="jsonpath predicate, such as '$.amount_kopeks >= 1000'."),
    ] = None,
) -> None:
    """Create a webhook. Prints its id and, with --generate-secret, the secret on a second line.

    A secret is never an argument: every user of the machine could see it in the list of processes.
    """
    if secret_stdin and generate_secret:
        _fail("--secret-stdin and --generate-secret exclude each other", MISUSED)
    fields = {
        "name": name,
        "url": url,
        "event_type": event_type,
        "secret": _secret_of_stdin() if secret_stdin else None,
        "generate_secret": generate_secret,
        "rate_per_second": rate_per_second,
        "max_concurrency": max_concurrency,
        "timeout_seconds": timeout_seconds,
        "ordered": ordered,
        "filter": filter_,
    }
    with _operating() as webhooks:
        from bridge.webhooks.model import NewWebhook
        from bridge.webhooks.operations import validated

        created = run_blocking(webhooks.create(validated(NewWebhook, fields)))
    typer.echo(created.id)
    if created.secret is not None:
        typer.echo(created.secret)


@webhooks_app.command("test")
def webhooks_test(webhook_id: WebhookId) -> None:
    """Send a webhook a signed test request from this machine, and print the response."""
    settings = _settings()
    with _operating(settings) as webhooks:
        from bridge.webhooks.trial import blocking_sender

        send = blocking_sender(Vault(settings.secret_keys), settings.allowed_networks)
        trial = run_blocking(webhooks.send_test(webhook_id, send))
    if trial.response_body:
        typer.echo(trial.response_body)
    if trial.error_message is not None:
        _fail(trial.error_message)
    _say(f"HTTP {trial.response_status} after {1000 * trial.seconds:.0f} ms")


@webhooks_app.command("disable")
def webhooks_disable(webhook_id: WebhookId) -> None:
    """Disable a webhook: queue no new deliveries for it, and hold back pending ones."""
    _activate(webhook_id, False)
    _say(f"webhook {webhook_id} is disabled")


@webhooks_app.command("enable")
def webhooks_enable(webhook_id: WebhookId) -> None:
    """Enable a webhook."""
    _activate(webhook_id, True)
    _say(f"webhook {webhook_id} is enabled")


@webhooks_app.command("pause")
def webhooks_pause(webhook_id: WebhookId) -> None:
    """Hold back a webhook's deliveries. New ones are still queued, unlike with disable."""
    with _operating() as webhooks:
        run_blocking(webhooks.pause(webhook_id))
    _say(f"webhook {webhook_id} is paused")


@webhooks_app.command("resume")
def webhooks_resume(webhook_id: WebhookId) -> None:
    """Resume deliveries, whether the webhook was paused, failing or disabled."""
    with _operating() as webhooks:
        run_blocking(webhooks.resume(webhook_id))
    _say(f"webhook {webhook_id} is resumed")


@webhooks_app.command("redeliver")
def webhooks_redeliver(
    webhook_id: WebhookId,
    since: Annotated[str, typer.Option(help="From then on, '2026-01-31 10:00'; UTC.")],
    until: Annotated[str | None, typer.Option(help="Before then.")] = None,
    per_second: Annotated[float, typer.Option(help="How many a second.")] = 20.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Redeliver failed deliveries, selected by the time at which they failed. Prints how many."""
    with _operating() as webhooks:
        from bridge.webhooks.model import Redelivery
        from bridge.webhooks.operations import validated

        fields = {"since": since, "until": until, "per_second": per_second}
        chosen = validated(Redelivery, fields)
        count = run_blocking(webhooks.redeliver_failed(webhook_id, chosen)).count
        if count and not dry_run:
            if not yes and not sys.stdin.isatty():
                _fail("standard input is not a terminal; pass --yes or --dry-run", MISUSED)
            if not yes:
                typer.confirm(f"Redeliver {count} failed deliveries?", abort=True, err=True)
            chosen.dry_run = False
            count = run_blocking(webhooks.redeliver_failed(webhook_id, chosen)).count
    typer.echo(count)


@webhooks_app.command("import")
def webhooks_import(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be copied, and copy nothing.")
    ] = False,
) -> None:
    """Copy the active webhooks of the bot's own table public.webhooks. Prints the new ids."""
    settings = _settings()
    vault = Vault(settings.secret_keys)
    with _installing(settings) as connection, install_lock(connection):
        from bridge.webhooks.bot_import import import_webhooks

        results = import_webhooks(connection, vault, dry_run=dry_run)
    for each in results:
        what = f"{each.name}, {each.event_type} to {each.url}"
        if each.skipped is not None:
            _say(f"skipped: {what}: {each.skipped}")
        else:
            _say(f"{'would copy' if dry_run else 'copied'}: {what}")
        if each.webhook_id is not None:
            typer.echo(each.webhook_id)
    copied = sum(each.skipped is None for each in results)
    _say(f"{copied} {'to copy' if dry_run else 'copied'}, {len(results) - copied} skipped")
    if copied:
        _say("switch the bot's own webhooks off, else receivers get each event twice")


@contextmanager
def _operating(settings: Settings | None = None) -> Iterator[Webhooks]:
    """Give the operations on webhooks, on a connection of their own."""
    from bridge.webhooks.operations import Webhooks  # half the time that other commands take

    settings = settings or _settings()
    with _installing(settings) as connection:
        yield Webhooks(SessionQueries(connection), Vault(settings.secret_keys))


def _activate(webhook_id: int, is_active: bool) -> None:
    with _operating() as webhooks:
        from bridge.webhooks.model import WebhookChanges

        run_blocking(webhooks.update(webhook_id, WebhookChanges(is_active=is_active)))


def _secret_of_stdin() -> str:
    """Read a secret: typed unseen at a terminal, or else the line that stdin has."""
    if sys.stdin.isatty():
        return str(typer.prompt("Secret", hide_input=True, err=True))
    secret = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not secret:
        _fail("standard input has no secret", MISUSED)
    return secret


def _settings(**given: object) -> Settings:
    try:
        return load_settings(**given)
    except SettingsError as error:
        _fail(str(error), MISUSED)


def _rules(settings: Settings) -> list[Rule]:
    try:
        return load_rules(config_text(), settings.preset)
    except (RuleError, SettingsError) as error:
        _fail(str(error), MISUSED)


@contextmanager
def _installing(settings: Settings) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open the installer's connection; what goes wrong within ends the command in one line."""
    with _failing_in_a_line(), open_session(settings.session_url) as connection:
        connection.execute("select set_config('bridge.actor', %s, false)", [json.dumps(_actor())])
        yield connection


@contextmanager
def _failing_in_a_line() -> Iterator[None]:
    """Have what goes wrong with the database end the command in one line."""
    try:
        yield
    except InvalidInputError as error:
        _fail(str(error), MISUSED)
    except NotFoundError as error:
        _fail(f"{error}; see: pgbridge webhooks list")
    except (InstallError, SessionError, WebhookError, StatusError) as error:
        _fail(str(error))
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        _fail("pgbridge is not installed in this database; run: pgbridge init")
    except psycopg.Error as error:
        _fail(one_line_with_hint(error))


def _actor() -> dict[str, str]:
    """Return who runs this command, for the audit log."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = str(os.getuid())
    return {"via": "cli", "actor": f"{user}@{socket.gethostname()}"}


def _table(*headers: str) -> Table:
    """Return a table that breaks what is too long for its column, and never cuts it off."""
    columns = [Column(header, overflow="fold") for header in headers]
    return Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def _print_findings(findings: Sequence[Finding]) -> None:
    """Print a line a finding; in a terminal, lines are broken to stand in one column."""
    console = Console(highlight=False, markup=False, emoji=False)
    counts: Counter[str] = Counter(finding.level for finding in findings)
    margin = " " * len("warning  ")
    for finding in findings:
        text = f"{finding.check}: {finding.message}"
        if finding.detail:
            text += f"\n{margin}detail: {finding.detail}\n{margin}hint: {finding.hint}"
        if console.is_terminal:
            text = "\n".join(
                textwrap.fill(line, console.width, subsequent_indent=margin + "  ")
                for line in (margin + text).splitlines()
            ).removeprefix(margin)
        mark = f"{finding.level:<{len(margin)}}"
        console.print(Text.assemble((mark, LEVEL_STYLES[finding.level]), text), soft_wrap=True)
    console.print(", ".join(f"{level}: {counts[level]}" for level in LEVEL_STYLES))


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _announce(line: str) -> None:
    print(line, flush=True)


def _fail(line: str, code: int = FAILED) -> NoReturn:
    _say(f"pgbridge: {line}")
    raise SystemExit(code)
