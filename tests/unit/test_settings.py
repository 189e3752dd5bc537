"""Settings come from variables and pgbridge.toml; a wrong one is named in one line."""

import base64
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from bridge.access.vault import Vault
from bridge.settings import RETRY_SCHEDULE_SECONDS, Settings, SettingsError, load_settings

URL = "postgresql://bot:hunter2@db.example:5432/bot"
# Of each byte that differs between the alphabets of base64.
KEY = base64.b64encode(b"\xfb\xff" * 16).decode()
URL_SAFE_KEY = base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode()
OTHER_KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run in, and an environment that says nothing of ours."""
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


def test_only_the_database_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    settings = load_settings()
    assert settings.database_url == URL
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.token is None
    assert settings.retry_schedule == RETRY_SCHEDULE_SECONDS
    assert settings.allowed_networks == ()


def test_without_a_database_the_message_says_what_to_set() -> None:
    assert refusal() == (
        "BRIDGE_DATABASE_URL is not set; set it to the application's database, "
        "postgresql://user:password@host/database"
    )


# --- where a setting comes from


def test_the_applications_own_variable_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert load_settings().database_url == URL


def test_our_variable_wins_over_the_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://wrong/wrong")
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    assert load_settings().database_url == URL


@pytest.mark.parametrize("variable", ["BRIDGE_DATABASE_URL", "DATABASE_URL"])
def test_a_variable_wins_over_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (home / "pgbridge.toml").write_text(
        'database_url = "postgresql://file/file"\nport = 9000\nhost = "0.0.0.0"\n'
    )
    monkeypatch.setenv(variable, URL)
    monkeypatch.setenv("BRIDGE_PORT", "9001")
    settings = load_settings()
    assert (settings.database_url, settings.port, settings.host) == (URL, 9001, "0.0.0.0")


def test_what_the_command_line_gives_wins_over_all(
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


def test_the_file_can_be_anywhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other.toml").write_text(f'database_url = "{URL}"\n')
    monkeypatch.setenv("BRIDGE_CONFIG", str(home / "other.toml"))
    assert load_settings().database_url == URL


def test_lists_in_variables_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_url_of_sqlalchemys_is_understood(given: str, plain: str) -> None:
    assert load_settings(database_url=given).database_url == plain


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "db.example", "/bot", "sqlite:///x"])
def test_a_url_of_another_database_is_refused(url: str) -> None:
    assert refusal(database_url=url) == "BRIDGE_DATABASE_URL: must begin with postgresql://"


def test_a_session_is_had_where_notifications_are_listened_for() -> None:
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
        ("postgresql://u:hunter2@hunter2@h/d", "has a second @; write one in a password as %40"),
        ("postgresql://u:hunter2%@h/d", "has a % that begins no escape; write one in a password"),
        (
            "postgresql://u:hunter2/x@h/d",
            "has a port that is not a number up to 65535; in a password, write / as %2F",
        ),
        (
            "postgresql://u:1/hunter2@h/d",
            "has an @ or a ? where none belongs; in a password, write",
        ),
        (
            "postgresql://u:1?hunter2@h/d",
            "has an @ or a ? where none belongs; in a password, write",
        ),
        (
            "postgresql://u:1#hunter2@h/d",
            "has an @ or a ? where none belongs; in a password, write",
        ),
        ("postgresql://u:hunter2%00@h/d", "has a % that begins no escape; write one in a password"),
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_password(
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
def test_an_at_sign_may_stand_in_what_a_url_says_by_name(url: str) -> None:
    assert load_settings(database_url=url).database_url == url


# --- the live stream


def test_origins_are_compared_as_browsers_send_them() -> None:
    settings = load_settings(
        database_url=URL, ws_origins="https://Dashboard.Example, http://localhost:3000"
    )
    assert settings.ws_origins == ("https://dashboard.example", "http://localhost:3000")
    assert load_settings(database_url=URL).ws_origins == ()


@pytest.mark.parametrize(
    "origin", ["dashboard.example", "https://dashboard.example/", "https://", "*", "null"]
)
def test_what_no_browser_sends_as_an_origin_is_refused(origin: str) -> None:
    assert refusal(database_url=URL, ws_origins=origin) == (
        f"BRIDGE_WS_ORIGINS: {origin!r} is no origin such as https://dashboard.example"
    )


@pytest.mark.parametrize(
    "setting", ["ws_clients", "ws_clients_per_token", "ws_idle_seconds", "ws_ping_seconds"]
)
def test_a_limit_of_nothing_is_refused(setting: str) -> None:
    assert refusal(database_url=URL, **{setting: "0"}).startswith(f"BRIDGE_{setting.upper()}: ")


# --- the networks


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ("10.0.0.0/8,intranet", "'intranet' is not a network; write them like 10.0.0.0/8,192.168"),
        ("10.0.0.0/8 10.1.0.0/16", "'10.0.0.0/8 10.1.0.0/16' is not a network; write them like"),
        ("10.0.0.0/33", "'10.0.0.0/33' is not a network; "),
        ("10/8", "'10/8' is not a network; "),
        ("10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0' is not a network; "),
        ("fe80::%eth0/64", "'fe80::%eth0/64' is not a network; "),
        ("[::1]", "'[::1]' is not a network; "),
        ("http://10.0.0.1", "'http://10.0.0.1' is not a network; "),
        ("10.0.0.5/8", "10.0.0.5/8 is not exact; write 10.0.0.0/8, or 10.0.0.5 for this one"),
        ("fd00::1/8", "fd00::1/8 is not exact; write fd00::/8, or fd00::1 for this one address"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1 is IPv4 in the form of IPv6; write 127.0.0.1/32"),
        ("::ffff:7f00:0/104", "::ffff:7f00:0/104 is IPv4 in the form of IPv6; write 127.0.0.0/8"),
        ([10], "10 is not a network; "),
        ([True], "True is not a network; "),
        (10, "must be a list of networks, such as 10.0.0.0/8,192.168.1.7"),
    ],
)
def test_a_network_that_is_not_exactly_one_is_named(networks: object, said: str) -> None:
    message = refusal(database_url=URL, allowed_networks=networks)
    assert message.startswith(f"BRIDGE_ALLOWED_NETWORKS: {said}")


# --- mistakes


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("BRIDGE_PORT", "http", "BRIDGE_PORT: Input should be a valid integer"),
        ("BRIDGE_PORT", "65536", "BRIDGE_PORT: Input should be less than or equal to 65535"),
        ("BRIDGE_POLL_SECONDS", "0", "BRIDGE_POLL_SECONDS: Input should be greater than 0"),
        ("BRIDGE_RETRY_SCHEDULE", ",", "BRIDGE_RETRY_SCHEDULE: must be one or more seconds"),
        ("BRIDGE_RETRY_SCHEDULE", "0,-1", "BRIDGE_RETRY_SCHEDULE: must be one or more seconds"),
        ("BRIDGE_RETRY_SCHEDULE", "now", "BRIDGE_RETRY_SCHEDULE: Input should be a valid number"),
    ],
)
def test_a_variable_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    monkeypatch.setenv(variable, value)
    assert refusal().startswith(said)


def test_a_key_that_is_unknown_is_named_with_its_file(home: Path) -> None:
    (home / "pgbridge.toml").write_text(f'database_url = "{URL}"\nprot = 9000\n')
    assert refusal() == "pgbridge.toml: unknown key 'prot'"


def test_a_file_that_is_no_toml_is_named(home: Path) -> None:
    (home / "pgbridge.toml").write_text("port 9000")
    assert refusal().startswith("pgbridge.toml: ")


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_CONFIG", "nowhere.toml")
    assert refusal() == "BRIDGE_CONFIG names nowhere.toml, and there is no such file"


# --- secrets


def test_no_secret_shows_in_what_is_printed_of_the_settings() -> None:
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
def test_keys_of_secrets_are_read_in_either_alphabet_and_make_a_vault(
    monkeypatch: pytest.MonkeyPatch, given: str, keys: list[str]
) -> None:
    monkeypatch.setenv("BRIDGE_DATABASE_URL", URL)
    monkeypatch.setenv("BRIDGE_SECRET_KEY", given)
    settings = load_settings()
    assert settings.secret_keys == keys
    assert Vault(settings.secret_keys).encrypts


def test_without_a_key_secrets_are_not_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SECRET_KEY", "")
    assert load_settings(database_url=URL).secret_keys == []


def test_keys_of_secrets_can_stand_in_the_file(home: Path) -> None:
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
def test_a_key_that_is_none_is_told_by_its_place_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, given: str, place: int
) -> None:
    monkeypatch.setenv("BRIDGE_SECRET_KEY", given)
    assert refusal(database_url=URL) == (
        f"BRIDGE_SECRET_KEY: key {place} must be 32 bytes in base64, "
        "as this prints them: openssl rand -base64 32"
    )


def test_a_list_of_keys_without_a_key_is_refused() -> None:
    assert refusal(database_url=URL, secret_key=" , ") == (
        "BRIDGE_SECRET_KEY: must be one or more keys, separated by commas"
    )


def test_a_file_with_a_key_that_is_no_text_is_refused(home: Path) -> None:
    (home / "pgbridge.toml").write_text("secret_key = [1]\n")
    assert refusal(database_url=URL) == "BRIDGE_SECRET_KEY: Input should be a valid string"


def test_no_key_of_secrets_shows_in_what_is_printed_of_the_settings() -> None:
    settings = load_settings(database_url=URL, secret_key=f"{KEY},{OTHER_KEY}")
    for key in (KEY, URL_SAFE_KEY, OTHER_KEY):
        assert key not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_settings_cannot_change_while_the_bridge_runs() -> None:
    settings: Settings = load_settings(database_url=URL)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


# --- who is let in


def test_the_bots_tokens_are_off_until_they_are_switched_on(
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


def test_wrong_settings_of_the_bots_tokens_are_named() -> None:
    assert "BRIDGE_BOT_TOKENS_ALGORITHM" in refusal(database_url=URL, bot_tokens_algorithm="md5")
    assert refusal(database_url=URL, bot_tokens_scopes="events:read,root") == (
        "BRIDGE_BOT_TOKENS_SCOPES: unknown scope 'root'; valid scopes are events:read, "
        "webhooks:read, webhooks:write, admin, and events:read:ticket.* (any pattern) to limit "
        "a token to some event types"
    )
    assert "BRIDGE_BOT_TOKENS" in refusal(database_url=URL, bot_tokens="perhaps")


def test_proxies_are_networks() -> None:
    settings = load_settings(database_url=URL, trusted_proxies="127.0.0.1,10.0.0.0/8")
    assert settings.trusted_proxies == (ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"))
    assert "BRIDGE_TRUSTED_PROXIES" in refusal(database_url=URL, trusted_proxies="nginx")


def test_limits_may_be_off_and_the_audit_log_is_kept_for_a_month_at_least() -> None:
    settings = load_settings(database_url=URL, failed_logins_per_minute=0, requests_per_second=0)
    assert settings.failed_logins_per_minute == settings.requests_per_second == 0
    assert "BRIDGE_REQUESTS_PER_SECOND" in refusal(database_url=URL, requests_per_second=-1)
    assert "BRIDGE_KEEP_AUDIT_DAYS" in refusal(database_url=URL, keep_audit_days=29)
