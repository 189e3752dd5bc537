"""Settings from variables and pgbridge.toml, and the error for each invalid one."""

import base64
import os
import re
from ipaddress import ip_network
from pathlib import Path

import pytest

from bridge.access.vault import Vault
from bridge.settings import RETRY_SCHEDULE_SECONDS, Settings, SettingsError, load_settings

ROOT = Path(__file__).parents[2]
URL = "postgresql://bot:hunter2@db.example:5432/bot"
# Of each byte that differs between the alphabets of base64.
KEY = base64.b64encode(b"\xfb\xff" * 16).decode()
URL_SAFE_KEY = base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode()
OTHER_KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without settings."""
    for name in list(os.environ):
        if name.upper().startswith("BRIDGE_") or name.upper() == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(**given: object) -> str:
    with pytest.raises(SettingsError) as raised:
        load_settings(**given)
    message = str(raised.value)
    assert "\n" not in message
    assert "hunter2" not in message
    return message


def test_only_the_database_url_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    settings = load_settings()
    assert settings.database_url == URL
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.token is None
    assert settings.retry_schedule == RETRY_SCHEDULE_SECONDS
    assert settings.allowed_networks == ()


def test_missing_database_url_says_what_to_set() -> None:
    assert refusal() == (
        "BRIDGE_DATABASE_URL is not set; set it to the application's database, "
        "postgresql://user:password@host/database"
    )


# --- where a setting comes from


def test_database_url_of_the_application_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert load_settings().database_url == URL


def test_bridge_database_url_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://wrong/wrong")
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    assert load_settings().database_url == URL


@pytest.mark.parametrize("variable", ["BRIDGE_DATABASE_URL", "DATABASE_URL"])
def test_variables_take_precedence_over_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (home / "pgbridge.toml").write_text(
        'database_url = "postgresql://file/file"\nport = 9000\nhost = "0.0.0.0"\n'
    )
    monkeypatch.setenv(variable, URL)
    monkeypatch.setenv("BRIDGE_PORT", "9001")
    settings = load_settings()
    assert (settings.database_url, settings.port, settings.host) == (URL, 9001, "0.0.0.0")


def test_command_line_takes_precedence_over_all(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "pgbridge.toml").write_text('database_url = "postgresql://file/file"\nport = 9000\n')
    monkeypatch.setenv("BRIDGE_DATABASE_URL", "postgresql://variable/variable")
    monkeypatch.setenv("BRIDGE_PORT", "9001")
    settings = load_settings(database_url=URL, port=9002)
    assert (settings.database_url, settings.port) == (URL, 9002)


def test_the_file_alone_is_enough(home: Path) -> None:
    (home / "pgbridge.toml").write_text(
        f'database_url = "{URL}"\ntoken = "secret"\nretry_schedule = [0, 1.5]\n'
        'cors_origins = ["https://a.example", "https://b.example"]\n'
        'allowed_networks = ["10.0.0.0/8", "::1"]\n'
    )
    settings = load_settings()
    assert settings.database_url == URL
    assert settings.token is not None
    assert settings.token.get_secret_value() == "secret"
    assert settings.retry_schedule == (0, 1.5)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.allowed_networks == (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def test_config_variable_names_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other.toml").write_text(f'database_url = "{URL}"\n')
    monkeypatch.setenv("BRIDGE_CONFIG", str(home / "other.toml"))
    assert load_settings().database_url == URL


def test_lists_in_variables_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    monkeypatch.setenv("BRIDGE_RETRY_SCHEDULE", "0, 5,300 ")
    monkeypatch.setenv("BRIDGE_CORS_ORIGINS", "https://a.example,https://b.example")
    monkeypatch.setenv("BRIDGE_ALLOWED_NETWORKS", "10.0.0.0/8, 192.168.1.7,fd00::/8,::/0")
    settings = load_settings()
    assert settings.retry_schedule == (0, 5, 300)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.allowed_networks == tuple(
        map(ip_network, ["10.0.0.0/8", "192.168.1.7/32", "fd00::/8", "::/0"])
    )


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", "")
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("BRIDGE_TOKEN", "")
    settings = load_settings()
    assert (settings.database_url, settings.token) == (URL, None)


# --- the URL


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("postgresql+asyncpg://u:p@h/d", "postgresql://u:p@h/d"),
        (
            "postgresql+psycopg://u:p@h:1/d?sslmode=require",
            "postgresql://u:p@h:1/d?sslmode=require",
        ),
        ("postgres://u:p%40@h/d", "postgresql://u:p%40@h/d"),
        ("postgresql://u@/d?host=/run/postgresql", "postgresql://u@/d?host=/run/postgresql"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
        ("postgresql+asyncpg:///d?host=/run", "postgresql:///d?host=/run"),
    ],
)
def test_sqlalchemy_url_is_converted(given: str, plain: str) -> None:
    assert load_settings(database_url=given).database_url == plain


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "db.example", "/bot", "sqlite:///x"])
def test_url_of_another_database_is_rejected(url: str) -> None:
    assert refusal(database_url=url) == "BRIDGE_DATABASE_URL: must begin with postgresql://"


def test_session_url_is_the_listen_url_if_set() -> None:
    direct = "postgresql+asyncpg://u:p@postgres/d"
    settings = load_settings(database_url=URL, listen_url=direct)
    assert settings.session_url == settings.listen_url == "postgresql://u:p@postgres/d"
    assert load_settings(database_url=URL).session_url == URL


@pytest.mark.parametrize("setting", ["database_url", "listen_url"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:hunter2@h/d", "must begin with postgresql://"),
        ("postgresql://u:hunter2@h:port/d", "has a port that is not a number up to 65535"),
        ("postgresql://u:hunter2@hunter2@h/d", "has a second @; in a password, write @ as %40"),
        ("postgresql://u:hunter2%@h/d", "has an invalid % escape; in a password, write % as"),
        (
            "postgresql://u:hunter2/x@h/d",
            "has a port that is not a number up to 65535; in a password, write / as %2F",
        ),
        (
            "postgresql://u:1/hunter2@h/d",
            "has a misplaced @ or ?; in a password, write",
        ),
        (
            "postgresql://u:1?hunter2@h/d",
            "has a misplaced @ or ?; in a password, write",
        ),
        (
            "postgresql://u:1#hunter2@h/d",
            "has a misplaced @ or ?; in a password, write",
        ),
        ("postgresql://u:hunter2%00@h/d", "has an invalid % escape; in a password, write % as"),
    ],
)
def test_invalid_url_is_rejected_without_showing_its_password(
    setting: str, url: str, said: str
) -> None:
    given = {"database_url": URL} | {setting: url}
    assert refusal(**given).startswith(f"BRIDGE_{setting.upper()}: {said}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/d?application_name=a@b&sslmode=require",
        "postgresql:///d?host=/run/postgresql&user=u@realm",
        "postgresql://u%40realm:p%2F%3F%23@h/d?",
        "postgresql://h",
    ],
)
def test_at_sign_is_allowed_in_url_parameters(url: str) -> None:
    assert load_settings(database_url=url).database_url == url


# --- the live stream


def test_origins_are_lowercased_like_browsers_send_them() -> None:
    settings = load_settings(
        database_url=URL, ws_origins="https://Dashboard.Example, http://localhost:3000"
    )
    assert settings.ws_origins == ("https://dashboard.example", "http://localhost:3000")
    assert load_settings(database_url=URL).ws_origins == ()


@pytest.mark.parametrize(
    "origin", ["dashboard.example", "https://dashboard.example/", "https://", "*", "null"]
)
def test_invalid_origin_is_rejected(origin: str) -> None:
    assert refusal(database_url=URL, ws_origins=origin) == (
        f"BRIDGE_WS_ORIGINS: {origin!r} is not an origin; write origins like https://dashboard.example"
    )


@pytest.mark.parametrize(
    "setting", ["ws_clients", "ws_clients_per_token", "ws_idle_seconds", "ws_ping_seconds"]
)
def test_limit_of_zero_is_rejected(setting: str) -> None:
    assert refusal(database_url=URL, **{setting: "0"}).startswith(f"BRIDGE_{setting.upper()}: ")


# --- the networks


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ("10.0.0.0/8,intranet", "'intranet' is not a network; write networks like 10.0.0.0/8,192."),
        (
            "10.0.0.0/8 10.1.0.0/16",
            "'10.0.0.0/8 10.1.0.0/16' is not a network; write networks like",
        ),
        ("10.0.0.0/33", "'10.0.0.0/33' is not a network; "),
        ("10/8", "'10/8' is not a network; "),
        ("10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0' is not a network; "),
        ("fe80::%eth0/64", "'fe80::%eth0/64' is not a network; "),
        ("[::1]", "'[::1]' is not a network; "),
        ("http://10.0.0.1", "'http://10.0.0.1' is not a network; "),
        ("10.0.0.5/8", "10.0.0.5/8 is not exact; write 10.0.0.0/8, or 10.0.0.5 for this address"),
        ("fd00::1/8", "fd00::1/8 is not exact; write fd00::/8, or fd00::1 for this address"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1 is IPv4 written as IPv6; write 127.0.0.1/32"),
        ("::ffff:7f00:0/104", "::ffff:7f00:0/104 is IPv4 written as IPv6; write 127.0.0.0/8"),
        ([10], "10 is not a network; "),
        ([True], "True is not a network; "),
        (10, "must be a list of networks, such as 10.0.0.0/8,192.168.1.7"),
    ],
)
def test_inexact_network_is_rejected_by_name(networks: object, said: str) -> None:
    message = refusal(database_url=URL, allowed_networks=networks)
    assert message.startswith(f"BRIDGE_ALLOWED_NETWORKS: {said}")


# --- mistakes


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("BRIDGE_PORT", "http", "BRIDGE_PORT: Input should be a valid integer"),
        ("BRIDGE_PORT", "65536", "BRIDGE_PORT: Input should be less than or equal to 65535"),
        ("BRIDGE_POLL_SECONDS", "0", "BRIDGE_POLL_SECONDS: Input should be greater than 0"),
        ("BRIDGE_RETRY_SCHEDULE", ",", "BRIDGE_RETRY_SCHEDULE: must be one or more numbers"),
        ("BRIDGE_RETRY_SCHEDULE", "0,-1", "BRIDGE_RETRY_SCHEDULE: must be one or more numbers"),
        ("BRIDGE_RETRY_SCHEDULE", "now", "BRIDGE_RETRY_SCHEDULE: Input should be a valid number"),
    ],
)
def test_invalid_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    monkeypatch.setenv(variable, value)
    assert refusal().startswith(said)


def test_unknown_key_is_named_with_its_file(home: Path) -> None:
    (home / "pgbridge.toml").write_text(f'database_url = "{URL}"\nprot = 9000\n')
    assert refusal() == "pgbridge.toml: unknown key 'prot'"


def test_file_that_is_not_toml_is_named(home: Path) -> None:
    (home / "pgbridge.toml").write_text("port 9000")
    assert refusal().startswith("pgbridge.toml: ")


def test_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_CONFIG", "nowhere.toml")
    assert refusal() == "BRIDGE_CONFIG: file nowhere.toml does not exist"


# --- secrets


def test_printed_settings_show_no_secret() -> None:
    settings = load_settings(database_url=URL, listen_url=URL, token="open sesame")
    for shown in (repr(settings), str(settings)):
        assert "hunter2" not in shown
        assert "open sesame" not in shown


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (KEY, [URL_SAFE_KEY]),
        (URL_SAFE_KEY, [URL_SAFE_KEY]),
        (KEY.rstrip("="), [URL_SAFE_KEY]),
        (f"{KEY},{OTHER_KEY}", [URL_SAFE_KEY, OTHER_KEY]),
        (f" {OTHER_KEY} , {KEY},\n", [OTHER_KEY, URL_SAFE_KEY]),
    ],
)
def test_secret_keys_accept_any_base64_and_make_a_vault(
    monkeypatch: pytest.MonkeyPatch, given: str, keys: list[str]
) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    monkeypatch.setenv("BRIDGE_SECRET_KEY", given)
    settings = load_settings()
    assert settings.secret_keys == keys
    assert Vault(settings.secret_keys).encrypts


def test_secrets_are_not_encrypted_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SECRET_KEY", "")
    assert load_settings(database_url=URL).secret_keys == []


def test_secret_keys_are_read_from_the_file(home: Path) -> None:
    (home / "pgbridge.toml").write_text(f'secret_key = ["{KEY}", "{OTHER_KEY}"]\n')
    assert load_settings(database_url=URL).secret_keys == [URL_SAFE_KEY, OTHER_KEY]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("hunter2", 1),
        (f"{KEY},hunter2", 2),
        (f"hunter2{KEY}", 1),
        (f"{KEY[:20]} hunter2 {KEY[20:]}", 1),
        (base64.b64encode(b"k" * 31).decode(), 1),
        (base64.b64encode(b"k" * 33).decode(), 1),
        ("hunter2" + "ю" * 36, 1),
    ],
)
def test_invalid_secret_key_is_named_by_its_position(
    monkeypatch: pytest.MonkeyPatch, given: str, place: int
) -> None:
    monkeypatch.setenv("BRIDGE_SECRET_KEY", given)
    assert refusal(database_url=URL) == (
        f"BRIDGE_SECRET_KEY: key {place} must be 32 bytes in base64; "
        "create a key: openssl rand -base64 32"
    )


def test_empty_list_of_keys_is_rejected() -> None:
    assert refusal(database_url=URL, secret_key=" , ") == (
        "BRIDGE_SECRET_KEY: must be one or more keys, separated by commas"
    )


def test_numeric_secret_key_is_rejected(home: Path) -> None:
    (home / "pgbridge.toml").write_text("secret_key = [1]\n")
    assert refusal(database_url=URL) == "BRIDGE_SECRET_KEY: Input should be a valid string"


def test_printed_settings_show_no_secret_key() -> None:
    settings = load_settings(database_url=URL, secret_key=f"{KEY},{OTHER_KEY}")
    for key in (KEY, URL_SAFE_KEY, OTHER_KEY):
        assert key not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_settings_are_immutable() -> None:
    settings: Settings = load_settings(database_url=URL)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


# --- who is let in


def test_bot_tokens_are_off_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    settings = load_settings()
    assert not settings.bot_tokens
    monkeypatch.setenv("BRIDGE_BOT_TOKENS", "on")
    monkeypatch.setenv("BRIDGE_BOT_TOKENS_ALGORITHM", "sha512")
    monkeypatch.setenv("BRIDGE_BOT_TOKENS_SECRET", "hunter2")
    monkeypatch.setenv("BRIDGE_BOT_TOKENS_SCOPES", "events:read:ticket.*, webhooks:read")
    settings = load_settings()
    assert settings.bot_tokens
    assert settings.bot_tokens_algorithm == "sha512"
    assert settings.bot_tokens_scopes == ("events:read:ticket.*", "webhooks:read")
    assert settings.bot_tokens_secret is not None
    assert settings.bot_tokens_secret.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)


def test_invalid_bot_token_settings_are_named() -> None:
    assert "BRIDGE_BOT_TOKENS_ALGORITHM" in refusal(database_url=URL, bot_tokens_algorithm="md5")
    assert refusal(database_url=URL, bot_tokens_scopes="events:read,root") == (
        "BRIDGE_BOT_TOKENS_SCOPES: unknown scope 'root'; valid scopes are events:read, "
        "webhooks:read, webhooks:write, admin, and events:read:ticket.* (any pattern) to limit "
        "a token to some event types"
    )
    assert "BRIDGE_BOT_TOKENS" in refusal(database_url=URL, bot_tokens="perhaps")


def test_trusted_proxies_are_networks() -> None:
    settings = load_settings(database_url=URL, trusted_proxies="127.0.0.1,10.0.0.0/8")
    assert settings.trusted_proxies == (ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"))
    assert "BRIDGE_TRUSTED_PROXIES" in refusal(database_url=URL, trusted_proxies="nginx")


def test_bounds_of_rate_limits_and_audit_retention() -> None:
    settings = load_settings(database_url=URL, failed_logins_per_minute=0, requests_per_second=0)
    assert settings.failed_logins_per_minute == settings.requests_per_second == 0
    assert "BRIDGE_REQUESTS_PER_SECOND" in refusal(database_url=URL, requests_per_second=-1)
    assert "BRIDGE_KEEP_AUDIT_DAYS" in refusal(database_url=URL, keep_audit_days=29)


def test_every_setting_is_documented() -> None:
    table = (ROOT / "docs" / "settings.md").read_text("utf-8").split("## ")[0]
    documented = set(re.findall(r"`BRIDGE_([A-Z_]+)`", table)) - {"CONFIG"}
    # A row of three settings abbreviates the second and the third.
    documented |= {f"KEEP_{name}" for name in re.findall("`…_([A-Z_]+)`", table)}
    assert documented == {field.upper() for field in Settings.model_fields}
