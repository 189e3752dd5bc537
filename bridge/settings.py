"""Settings, from ``BRIDGE_*`` variables and ``pgbridge.toml``; variables take precedence."""

import os
import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bridge.access.networks import EXAMPLE, parse_networks
from bridge.access.proxies import Network
from bridge.access.scopes import EVENTS_READ, WEBHOOKS_READ, WEBHOOKS_WRITE, checked_scopes
from bridge.access.vault import url_safe_key
from bridge.database.url import checked_url

#: Seconds before each attempt of a delivery: the first is immediate, the tenth follows a day after
#: the ninth, a little over three days after the first.
RETRY_SCHEDULE_SECONDS = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

#: Default bounds of what REST, the console and commands create.
MAX_WEBHOOKS = 10_000
MAX_TOKENS = 1_000

#: The tables of ``pgbridge.toml`` that hold capture rules.
RULE_TABLES = ("capture", "note")
#: The built-in rules to use if the file has none.
DEFAULT_PRESET = "telegram-shop"


def _split(value: object) -> object:
    """Split the comma-separated text of a variable; leave a list from the file alone."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _networks(value: object) -> object:
    items = _split(value)
    if not isinstance(items, list | tuple):
        raise ValueError(f"must be a list of networks, such as {EXAMPLE}")
    return parse_networks(items)


Url = Annotated[str, AfterValidator(checked_url)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Scopes = Annotated[Texts, AfterValidator(lambda texts: tuple(checked_scopes(texts)))]
Numbers = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_split)]
Keys = Annotated[tuple[SecretStr, ...] | None, NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]


class SettingsError(Exception):
    """A setting is missing or invalid. The message says which one and what to do."""


class Settings(BaseSettings):
    """The settings of a bridge, each ``BRIDGE_<FIELD>`` or a key of ``pgbridge.toml``."""

    model_config = SettingsConfigDict(
        env_prefix="BRIDGE_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # the input may be a password
    )

    # The database with the application's tables and schema bridge.
    database_url: Url = Field(
        validation_alias=AliasChoices("BRIDGE_DATABASE_URL", "DATABASE_URL", "database_url"),
        repr=False,  # contains a password
    )
    # PostgreSQL's own address if database_url leads to a pooler; used where a session is needed.
    listen_url: Url | None = Field(None, repr=False)

    # Built-in capture rules. Custom rules are tables of the file.
    preset: str | None = None

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    # Processes that share the port, each a complete bridge.
    workers: int = Field(1, ge=1, le=64)
    token: SecretStr | None = None
    cors_origins: Texts = ()
    # Reverse proxies whose X-Forwarded-For is used.
    trusted_proxies: Networks = ()
    access_log: bool = False

    # The log on standard error; auto means console on a terminal, otherwise JSON.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    # The bot's own tokens: the hash of its table, and the key if the hash is an HMAC.
    bot_tokens: bool = False
    bot_tokens_algorithm: Literal["sha256", "sha384", "sha512"] = "sha256"
    bot_tokens_secret: SecretStr | None = None
    bot_tokens_scopes: Scopes = (EVENTS_READ, WEBHOOKS_READ, WEBHOOKS_WRITE)

    # Rate limits; 0 disables them.
    failed_logins_per_minute: float = Field(30.0, ge=0)
    requests_per_second: float = Field(100.0, ge=0)

    # Most webhooks, since each may get every event; most valid tokens.
    max_webhooks: int = Field(MAX_WEBHOOKS, ge=1, le=1_000_000)
    max_tokens: int = Field(MAX_TOKENS, ge=1, le=1_000_000)

    # Relay. poll_seconds is the fallback for a missed NOTIFY; quiet_poll_seconds replaces it while
    # the doorbell is quiet.
    doorbell: Literal["adaptive", "notify", "poll"] = "adaptive"
    poll_seconds: float = Field(1.0, gt=0, le=60)
    quiet_poll_seconds: float = Field(0.01, ge=0.001, le=1)
    drain_batch: int = Field(1000, ge=1, le=10_000)

    # Live stream. A client with more unread data than the buffer holds is disconnected.
    ws_buffer_bytes: int = Field(1024 * 1024, ge=1024)
    ws_message_bytes: int = Field(64 * 1024, ge=128)
    ws_handshake_seconds: float = Field(10.0, gt=0)
    ws_ping_seconds: float = Field(20.0, gt=0)
    ws_idle_seconds: float | None = Field(None, gt=0)
    ws_clients: int = Field(10_000, ge=1)
    ws_clients_per_token: int = Field(10_000, ge=1)
    # Origins of pages that may connect; empty allows all.
    ws_origins: Texts = ()

    # Delivery.
    delivery_concurrency: int = Field(256, ge=1, le=10_000)
    # Non-public networks that webhooks may reach.
    allowed_networks: Networks = ()
    retry_schedule: Numbers = RETRY_SCHEDULE_SECONDS
    disable_after_days: float = Field(5.0, gt=0)

    # Encrypts webhook secrets: the first key encrypts, all keys decrypt.
    secret_key: Keys = None

    # Retention. Events must outlive the failed deliveries that refer to them.
    keep_events_days: int = Field(35, ge=1)
    keep_successes_days: int = Field(7, ge=1)
    keep_failures_days: int = Field(30, ge=1)
    keep_audit_days: int = Field(365, ge=30, le=100_000)

    # How long `init` waits for a table lock before it backs off and retries.
    lock_timeout_seconds: float = Field(2.0, gt=0)
    # Whether a bridge runs the steps of `init` when triggers were dropped or disabled.
    repair_triggers: bool = False

    @property
    def session_url(self) -> str:
        """The URL whose connections are sessions, with their own locks, settings and LISTEN."""
        return self.listen_url or self.database_url

    @property
    def secret_keys(self) -> list[str]:
        """The keys of ``secret_key`` in URL-safe base64, as a vault takes them."""
        return [key.get_secret_value() for key in self.secret_key or ()]

    @field_validator("ws_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Accept origins as browsers send them: scheme, host and port, without a path."""
        for origin in value:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin, re.IGNORECASE):
                raise ValueError(
                    f"{origin!r} is not an origin; write origins like https://dashboard.example"
                )
        return tuple(origin.lower() for origin in value)

    @field_validator("secret_key")
    @classmethod
    def _check_keys(cls, keys: tuple[SecretStr, ...] | None) -> tuple[SecretStr, ...] | None:
        if keys is None:
            return None
        if not keys:  # such as ",", which surely does not ask for plain-text secrets
            raise ValueError("must be one or more keys, separated by commas")
        return tuple(_parse_key(key, place) for place, key in enumerate(keys, 1))

    @field_validator("retry_schedule")
    @classmethod
    def _check_schedule(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) < 0:
            raise ValueError("must be one or more numbers of seconds, none negative")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _SettingsFile(settings_cls, _config_path()))


class _SettingsFile(TomlConfigSettingsSource):
    """The settings in ``pgbridge.toml``, without the capture rules."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        read = super()._read_file(file_path)
        return {key: value for key, value in read.items() if key not in RULE_TABLES}


def load_settings(**given: Any) -> Settings:
    """Read the settings; ``given`` overrides variables and file.

    Raises:
        SettingsError: names the first invalid setting in one line.
    """
    named = os.environ.get("BRIDGE_CONFIG")
    if named and not Path(named).is_file():
        raise SettingsError(f"BRIDGE_CONFIG: file {named} does not exist")
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(_first_line(error)) from None
    except (ValueError, OSError) as error:  # the file is unreadable or not TOML
        raise SettingsError(f"{_config_path()}: {error}") from None


def config_text() -> str:
    """Return the text of ``pgbridge.toml``, empty if the file does not exist.

    Raises:
        SettingsError: the file is unreadable.
    """
    path = _config_path()
    try:
        return path.read_text("utf-8") if path.is_file() else ""
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from None


def config_source() -> str:
    """Return the path of ``pgbridge.toml``, or say that the file does not exist."""
    path = _config_path().absolute()
    return str(path) if path.is_file() else f"no configuration file at {path}"


def unknown_variables() -> list[str]:
    """Return the names of ``BRIDGE_*`` variables that are no settings, such as typos."""
    known = {f"BRIDGE_{field.upper()}" for field in Settings.model_fields} | {"BRIDGE_CONFIG"}
    return sorted(name for name in os.environ if name.startswith("BRIDGE_") and name not in known)


def first_problem(error: ValidationError) -> tuple[ErrorDetails, str]:
    """Return the first error of pydantic, without its input, and the plain message."""
    first = error.errors(include_url=False, include_input=False)[0]
    return first, first["msg"].removeprefix("Value error, ")


def _config_path() -> Path:
    return Path(os.environ.get("BRIDGE_CONFIG") or "pgbridge.toml")


def _parse_key(key: SecretStr, place: int) -> SecretStr:
    try:
        return SecretStr(url_safe_key(key.get_secret_value()))
    except ValueError as error:
        raise ValueError(f"key {place} {error}") from None


def _first_line(error: ValidationError) -> str:
    first, problem = first_problem(error)
    field = str(first["loc"][0]) if first["loc"] else "settings"
    name = "BRIDGE_DATABASE_URL" if field == "DATABASE_URL" else field
    if not name.startswith("BRIDGE_"):
        name = f"BRIDGE_{name.upper()}"
    if first["type"] == "missing":
        return f"{name} is not set; set it to the application's database, postgresql://user:password@host/database"
    if first["type"] == "extra_forbidden":
        return f"{_config_path()}: unknown key {field!r}"
    return f"{name}: {problem}"
