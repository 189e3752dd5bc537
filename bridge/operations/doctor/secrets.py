"""Check the stored secrets of webhooks."""

from bridge.access.vault import SecretError, Vault, is_sealed
from bridge.operations.doctor.framework import Context, Verdicts, error, listed, ok, warning


def webhook_secrets(context: Context) -> Verdicts:
    """Check that the secrets are encrypted and can be decrypted."""
    vault = Vault(context.settings.secret_keys)
    undecryptable, plaintext, outdated = set(), set(), set()  # webhook ids
    rows = context.fetch("stored_secrets")
    for row in rows:
        for stored in filter(None, (row["secret"], row["previous_secret"])):
            try:
                vault.open(stored)
            except SecretError:
                undecryptable.add(row["webhook_id"])
                continue
            if not is_sealed(stored):
                plaintext.add(row["webhook_id"])
            elif not vault.is_current(stored):
                outdated.add(row["webhook_id"])
    if undecryptable:
        whose = f"the secrets of {len(undecryptable)} webhooks: {listed(sorted(undecryptable))}"
        return error(
            f"no key in BRIDGE_SECRET_KEY decrypts {whose}"
            if vault.encrypts
            else f"BRIDGE_SECRET_KEY is not set and cannot decrypt {whose}",
            "a bridge with these settings cannot sign deliveries to these webhooks",
            "append the key that encrypted them to BRIDGE_SECRET_KEY, after a comma; if it is "
            "lost, give these webhooks new secrets",
        )
    if plaintext and not vault.encrypts:
        return warning(
            f"the secrets of {len(plaintext)} webhooks are stored as plain text",
            "anyone who can read bridge.webhooks or a backup of it can forge signatures",
            "set BRIDGE_SECRET_KEY for every bridge, to the output of: openssl rand -base64 32",
        )
    if plaintext:
        return warning(
            "BRIDGE_SECRET_KEY is set, but the secrets of these webhooks are stored as plain "
            f"text: {listed(sorted(plaintext))}",
            "a bridge that has the key encrypts them when it starts and every 10 minutes",
            "restart every bridge with the key; if one already has it, see its log",
        )
    if outdated:
        return warning(
            "the secrets of these webhooks are not encrypted with the first key: "
            f"{listed(sorted(outdated))}",
            "a bridge with these keys re-encrypts them when it starts and every 10 minutes; keep "
            "the old key until then",
            "restart every bridge with these keys; if one already has them, see its log",
        )
    if rows:
        return ok(f"the secrets of {len(rows)} webhooks are encrypted and can be decrypted")
    return ok("no webhook has a secret")
