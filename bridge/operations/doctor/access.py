"""Check the privileges of the role, and the bot's own tokens."""

from bridge.capture.dumps import dump_problem
from bridge.database.rights import (
    bot_tokens_trouble,
    existing_roles,
    grants,
    missing_rights,
)
from bridge.operations.doctor.framework import Context, Verdicts, error, ok, warning


def rights(context: Context) -> Verdicts:
    """Check the privileges of this role and of the roles that ``pgbridge init`` grants to."""
    [may] = context.fetch("may_install")
    if not may["has_schema"]:
        database = context.connection.info.dbname
        if may["may_create_schema"]:
            return ok(f"role {may['role']} can create the schema")
        return error(
            f"role {may['role']} lacks create on database {database}",
            "schema bridge does not exist, and this role cannot create it",
            "connect as the owner of the application's tables, or run: "
            f"grant create on database {database} to {may['role']}",
        )
    rows = context.fetch("rights")
    if missing := missing_rights(rows):
        message, hint = missing
        detail = "pgbridge run needs these privileges and does not start without them"
        return error(message, detail, hint)
    present = existing_roles(rows)
    if lost := grants(rows, present):
        return warning(
            f"{' and '.join(present)} lack {len(lost)} grants that pgbridge init makes",
            "commands of users who have only these roles fail",
            "run: pgbridge init",
        )
    return ok(f"role {may['role']} has the privileges that the bridge needs")


def dumps(context: Context) -> Verdicts:
    """Check that schema bridge does not make the dumps of other roles fail."""
    if (problem := dump_problem(context.fetch("dump_roles"))) is not None:
        return warning(*problem)
    return ok("no role's dumps fail because of schema bridge")


def bot_tokens(context: Context) -> Verdicts:
    """Check that the bot's own tokens can be read, if they are accepted."""
    if not context.settings.bot_tokens:
        return ok("BRIDGE_BOT_TOKENS is off, so the bot's own tokens are not accepted")
    for row in context.fetch("bot_tokens_table"):
        return error(
            f"public.web_api_tokens is not safe to read: {row['reason']}",
            "code of its owner would run with the bridge's privileges, so the bot's tokens are "
            "refused",
            "set BRIDGE_BOT_TOKENS=off, or remove the cause from the table",
        )
    if trouble := bot_tokens_trouble(context.fetch("bot_tokens_trouble")):
        reason, remedy = trouble
        return error(
            f"public.web_api_tokens cannot be read: {reason}",
            "BRIDGE_BOT_TOKENS is on, but the bot's tokens are refused; all others work",
            remedy,
        )
    return ok("the bot's own tokens can be read")
