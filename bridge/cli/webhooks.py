"""``pgbridge webhooks``: manage webhooks and their deliveries.

Only these commands pay for importing the webhook operations, which doubles their start-up time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bridge.access.vault import Vault
from bridge.capture.apply import install_lock
from bridge.cli.context import database_session, one_line_errors, read_settings
from bridge.cli.output import FAILED, MISUSED, Yes, ask, fail
from bridge.database.queries import SessionQueries, run_blocking
from bridge.terminal.output import say, show, show_json, show_table, show_text

if TYPE_CHECKING:
    from bridge.bot.webhooks import Imported
    from bridge.webhooks.operations import Webhooks

webhooks_app = typer.Typer(
    help="Manage webhooks and their deliveries.", no_args_is_help=True, rich_markup_mode=None
)

T = TypeVar("T")
WebhookId = Annotated[
    int,
    typer.Argument(min=1, max=2**63 - 1, metavar="ID", help="From `pgbridge webhooks list`."),
]


@webhooks_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List webhooks with state, backlog and success rate."""
    rows = [dict(row) for row in _run(lambda webhooks: webhooks.overview())]
    if as_json:
        show_json(rows)
        return
    for row in rows:
        rate = row["success_rate_hour"]
        row["success_rate_hour"] = "" if rate is None else f"{rate:g} %"
    headers = ("id", "name", "url", "event type", "state", "pending", "success, last hour")
    show_table(headers, [list(row.values()) for row in rows])


@webhooks_app.command()
def create(
    name: Annotated[str, typer.Option(help="What the webhook is for.")],
    url: Annotated[str, typer.Option(help="Where to send events: an http or https URL.")],
    event_type: Annotated[str, typer.Option(help="ticket.created, ticket.* or *.")],
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the signing secret from standard input.")
    ] = False,
    generate_secret: Annotated[
        bool, typer.Option("--generate-secret", help="Generate a signing secret and print it.")
    ] = False,
    rate_per_second: Annotated[
        float | None, typer.Option(help="Maximum attempts per second. Default: no limit.")
    ] = None,
    max_concurrency: Annotated[int, typer.Option(help="Maximum attempts in flight.")] = 4,
    timeout_seconds: Annotated[int, typer.Option(help="Timeout of one attempt.")] = 15,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Deliver one event at a time, in order.")
    ] = False,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help="A jsonpath condition: '$.amount_kopeks >= 1000'."),
    ] = None,
) -> None:
    """Create a webhook and print its ID.

    With --generate-secret, the second line is the secret. No option takes a secret as its value:
    every user of the machine could read it in the process list.
    """
    if secret_stdin and generate_secret:
        fail("--secret-stdin and --generate-secret exclude each other", MISUSED)
    fields = {
        "name": name,
        "url": url,
        "event_type": event_type,
        "secret": _read_secret() if secret_stdin else None,
        "generate_secret": generate_secret,
        "rate_per_second": rate_per_second,
        "max_concurrency": max_concurrency,
        "timeout_seconds": timeout_seconds,
        "ordered": ordered,
        "filter": filter_,
    }
    from bridge.webhooks.model import NewWebhook
    from bridge.webhooks.operations import validated

    created = _run(lambda webhooks: webhooks.create(validated(NewWebhook, fields)))
    show(created.id)
    if created.secret is not None:
        show(created.secret)
    for warning in created.warnings:
        say(f"note: {warning}")


@webhooks_app.command()
def test(webhook_id: WebhookId) -> None:
    """Send a signed test request from this machine.

    Prints the response body.
    """
    from bridge.webhooks.trial import blocking_sender

    settings = read_settings()
    send = blocking_sender(Vault(settings.secret_keys), settings.allowed_networks)
    trial = _run(lambda webhooks: webhooks.send_test(webhook_id, send))
    if trial.response_body:
        show_text(trial.response_body)
    if trial.error_message is not None:
        fail(trial.error_message)
    say(f"HTTP {trial.response_status} after {1000 * trial.seconds:.0f} ms")


@webhooks_app.command()
def disable(webhook_id: WebhookId) -> None:
    """Queue no new deliveries and hold back pending ones."""
    _set_active(webhook_id, False)
    say(f"webhook {webhook_id} is disabled")


@webhooks_app.command()
def enable(webhook_id: WebhookId) -> None:
    """Enable a webhook."""
    _set_active(webhook_id, True)
    say(f"webhook {webhook_id} is enabled")


@webhooks_app.command()
def pause(webhook_id: WebhookId) -> None:
    """Hold back deliveries, but keep queueing new ones."""
    _run(lambda webhooks: webhooks.pause(webhook_id))
    say(f"webhook {webhook_id} is paused")


@webhooks_app.command()
def resume(webhook_id: WebhookId) -> None:
    """Resume a paused, failing or disabled webhook."""
    _run(lambda webhooks: webhooks.resume(webhook_id))
    say(f"webhook {webhook_id} is resumed")


@webhooks_app.command()
def redeliver(
    webhook_id: WebhookId,
    since: Annotated[str, typer.Option(help="Failed at or after: '2026-01-31 10:00', in UTC.")],
    until: Annotated[str | None, typer.Option(help="Failed before this time.")] = None,
    per_second: Annotated[float, typer.Option(help="Deliveries per second.")] = 20.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only.")] = False,
    yes: Yes = False,
) -> None:
    """Redeliver failed deliveries and print how many."""
    from bridge.webhooks.model import Redelivery
    from bridge.webhooks.operations import validated

    fields = {"since": since, "until": until, "per_second": per_second}
    with one_line_errors():
        chosen = validated(Redelivery, fields)
    count = _run(lambda webhooks: webhooks.redeliver_failed(webhook_id, chosen)).count
    if count and not dry_run:
        if not yes:
            ask(f"Redeliver {count} failed deliveries?")
        chosen.dry_run = False
        count = _run(lambda webhooks: webhooks.redeliver_failed(webhook_id, chosen)).count
    show(count)


@webhooks_app.command()
def redelivery(
    webhook_id: WebhookId,
    cancel: Annotated[bool, typer.Option("--cancel", help="Redeliver no more of them.")] = False,
) -> None:
    """Show how far the last redelivery is, or cancel it."""
    progress = _run(
        lambda webhooks: (webhooks.cancel_redelivery if cancel else webhooks.redelivery)(webhook_id)
    )
    show(f"{progress.state}: {progress.requeued} of {progress.matched} put into the queue")


@webhooks_app.command("import")
def import_(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be copied without copying.")
    ] = False,
) -> None:
    """Copy the bot's active webhooks and print their new IDs.

    Reads the bot's own table public.webhooks. Exits with 1 if any webhook is refused.
    """
    settings = read_settings()
    vault = Vault(settings.secret_keys)
    with database_session(settings) as connection, install_lock(connection):
        from bridge.bot.webhooks import import_webhooks
        from bridge.delivery.resolve import blocking_url_refusal

        refusal = blocking_url_refusal(settings.allowed_networks)
        results = import_webhooks(
            connection, vault, refusal, dry_run=dry_run, most=settings.max_webhooks
        )
    _show_import(results, dry_run=dry_run)
    if any(each.refusal for each in results):
        raise SystemExit(FAILED)


def _show_import(results: Sequence[Imported], *, dry_run: bool) -> None:
    """Print a line for each of the bot's webhooks, the new ids, and a summary."""
    copied = refused = 0
    for each in results:
        what = f"{each.name}, {each.event_type} to {each.url}"
        if each.refusal is not None:
            refused += 1
            say(f"refused: {what}: {each.refusal}")
        elif each.is_present:
            say(f"skipped: {what}: already present")
        else:
            copied += 1
            say(f"{'would copy' if dry_run else 'copied'}: {what}")
            for warning in each.warnings:
                say(f"note: {warning}")
            if each.webhook_id is not None:
                show(each.webhook_id)
    skipped = len(results) - copied - refused
    say(f"{copied} {'to copy' if dry_run else 'copied'}, {skipped} skipped, {refused} refused")
    if copied:
        say("disable the bot's own webhooks, or receivers will get every event twice")


def _run(operation: Callable[[Webhooks], Coroutine[Any, Any, T]]) -> T:
    """Run an operation in a database session."""
    from bridge.webhooks.operations import Webhooks

    settings = read_settings()
    with database_session(settings) as connection:
        webhooks = Webhooks(
            SessionQueries(connection), Vault(settings.secret_keys), most=settings.max_webhooks
        )
        return run_blocking(operation(webhooks))


def _set_active(webhook_id: int, is_active: bool) -> None:
    from bridge.webhooks.model import WebhookChanges

    changes = WebhookChanges(is_active=is_active)
    _run(lambda webhooks: webhooks.update(webhook_id, changes))


def _read_secret() -> str:
    """Prompt for a secret on a terminal; otherwise read one line from standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Secret", hide_input=True, err=True))
    secret = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not secret:
        fail("standard input contains no secret", MISUSED)
    return secret
