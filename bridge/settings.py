"""What can be set, from ``BRIDGE_*`` variables and ``pgbridge.toml``; variables win."""

import base64
import os
import re
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bridge.access.scopes import EVENTS_READ, WEBHOOKS_READ, WEBHOOKS_WRITE, checked_scopes

#: Waits before each attempt of a delivery, in seconds: the first at once, the tenth a day after
#: the ninth. They add up to a little over three days.
RETRY_SCHEDULE_SECONDS = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


#: Bytes of a key in ``secret_key``.
SECRET_KEY_BYTES = 32

#: The tables of ``pgbridge.toml`` that are rules of capture.
RULE_TABLES = ("capture", "note")

# What is to be done about most URLs that cannot be read.
_ESCAPES = "in a password, write / as %2F, ? as %3F, # as %23 and @ as %40"
# What an operator gets to see as an example.
_NETWORKS = "10.0.0.0/8,192.168.1.7"
# IPv6's form of IPv4 addresses.
_MAPPED = IPv6Network("::ffff:0:0/96")


class SettingsError(Exception):
    """A setting is missing or wrong. The message says which one and what to do."""


class Settings(BaseSettings):
    """The settings of one bridge: each is ``BRIDGE_<FIELD>``, or a key of ``pgbridge.toml``."""

    model_config = SettingsConfigDict(
        env_prefix="BRIDGE_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may be a password
    )

    # Where the application's tables and schema bridge are.
    database_url: str = Field(
        validation_alias=AliasChoices("BRIDGE_DATABASE_URL", "DATABASE_URL", "database_url"),
        repr=False,  # it holds a password
    )
    # PostgreSQL's own address, where database_url is a pooler's: for all that needs a session.
    listen_url: str | None = Field(None, repr=False)

    # Rules of capture that come with pgbridge. Rules of one's own stand in the file.
    preset: str | None = None

    # Where to serve.
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    # Processes that share the port, each a whole bridge.
    workers: int = Field(1, ge=1, le=64)
    token: SecretStr | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    # Reverse proxies whose X-Forwarded-For is believed.
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    access_log: bool = False

    # The log on standard error; auto: JSON where that is no terminal.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    # Tokens of the bot's own table, and how it stores them: its algorithm, and its key if the hash
    # is an HMAC.
    bot_tokens: bool = False
    bot_tokens_algorithm: Literal["sha256", "sha384", "sha512"] = "sha256"
    bot_tokens_secret: SecretStr | None = None
    bot_tokens_scopes: Annotated[tuple[str, ...], NoDecode] = (
        EVENTS_READ,
        WEBHOOKS_READ,
        WEBHOOKS_WRITE,
    )

    # What strangers and clients may do how often; 0: without limit.
    failed_logins_per_minute: float = Field(30.0, ge=0)
    requests_per_second: float = Field(100.0, ge=0)

    # Relay. The poll is a net under LISTEN; while the doorbell is quiet, the other replaces it.
    doorbell: Literal["adaptive", "notify", "poll"] = "adaptive"
    poll_seconds: float = Field(1.0, gt=0, le=60)
    quiet_poll_seconds: float = Field(0.01, ge=0.001, le=1)
    drain_batch: int = Field(1000, ge=1, le=10_000)

    # Live stream. A client that leaves more than the buffer unread is closed.
    ws_buffer_bytes: int = Field(1024 * 1024, ge=1024)
    ws_message_bytes: int = Field(64 * 1024, ge=128)
    ws_handshake_seconds: float = Field(10.0, gt=0)
    ws_ping_seconds: float = Field(20.0, gt=0)
    ws_idle_seconds: float | None = Field(None, gt=0)
    ws_clients: int = Field(10_000, ge=1)
    ws_clients_per_token: int = Field(10_000, ge=1)
    # Pages that may connect from a browser; none named: all.
    ws_origins: Annotated[tuple[str, ...], NoDecode] = ()

    # Delivery.
    delivery_concurrency: int = Field(256, ge=1, le=10_000)
    # Networks that webhooks may be sent to although they are not public.
    allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    retry_schedule: Annotated[tuple[float, ...], NoDecode] = RETRY_SCHEDULE_SECONDS
    disable_after_days: float = Field(5.0, gt=0)

    # Secrets of webhooks in the database: the first key encrypts, all of them decrypt.
    secret_key: Annotated[tuple[SecretStr, ...] | None, NoDecode] = None

    # Days that the logs are kept. Events outlive the failures that refer to them.
    keep_events_days: int = Field(35, ge=1)
    keep_successes_days: int = Field(7, ge=1)
    keep_failures_days: int = Field(30, ge=1)
    # Who changed what.
    keep_audit_days: int = Field(365, ge=30, le=100_000)

    # How long `init` waits for a lock on an application's table before it steps back and retries.
    lock_timeout_seconds: float = Field(2.0, gt=0)

    @property
    def session_url(self) -> str:
        """Where a connection is a session of its own, with its locks, settings and LISTEN."""
        return self.listen_url or self.database_url

    @property
    def secret_keys(self) -> list[str]:
        """The keys of ``secret_key`` as a vault takes them, in URL-safe base64."""
        return [key.get_secret_value() for key in self.secret_key or ()]

    @field_validator("database_url", "listen_url")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        """Accept what an SQLAlchemy application has in its environment, too."""
        if url is None:
            return None
        parts = urlsplit(url)
        scheme = parts.scheme.split("+", 1)[0]
        if scheme not in ("postgresql", "postgres"):
            raise ValueError("must begin with postgresql://")
        if "," not in parts.netloc:  # several hosts have several ports
            try:
                _ = parts.port
            except ValueError:
                raise ValueError(
                    f"has a port that is not a number up to 65535; {_ESCAPES}"
                ) from None
        # PostgreSQL's client would show the password, or a part of it, in its complaint.
        if parts.netloc.count("@") > 1:
            raise ValueError("has a second @; write one in a password as %40")
        if "@" in parts.path + parts.fragment or any(
            part and "=" not in part for part in parts.query.split("&")
        ):
            raise ValueError(f"has an @ or a ? where none belongs; {_ESCAPES}")
        if re.search("%(?!(?!00)[0-9A-Fa-f]{2})", url):
            raise ValueError("has a % that begins no escape; write one in a password as %25")
        return "postgresql" + url[len(parts.scheme) :]

    @field_validator("cors_origins", "ws_origins", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return _split(value)

    @field_validator("ws_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Accept what a browser sends: scheme, host and port, without a path."""
        for origin in value:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin, re.IGNORECASE):
                raise ValueError(f"{origin!r} is no origin such as https://dashboard.example")
        return tuple(origin.lower() for origin in value)

    @field_validator("bot_tokens_scopes", mode="before")
    @classmethod
    def _scope_list(cls, value: object) -> object:
        return _split(value)

    @field_validator("bot_tokens_scopes")
    @classmethod
    def _scopes_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_scopes(value))

    @field_validator("allowed_networks", "trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        items = _split(value)
        if not isinstance(items, list | tuple):
            raise ValueError(f"must be a list of networks, such as {_NETWORKS}")
        return parse_networks(items)

    @field_validator("retry_schedule", mode="before")
    @classmethod
    def _schedule(cls, value: object) -> object:
        return _split(value)

    @field_validator("secret_key", mode="before")
    @classmethod
    def _key_list(cls, value: object) -> object:
        return _split(value)

    @field_validator("secret_key")
    @classmethod
    def _keys_usable(cls, keys: tuple[SecretStr, ...] | None) -> tuple[SecretStr, ...] | None:
        """Accept either alphabet of base64, with its padding or without."""
        if keys is None:
            return None
        if not keys:  # such as ",": nobody who writes that wants secrets in the clear
            raise ValueError("must be one or more keys, separated by commas")
        return tuple(
            _secret_key(key.get_secret_value(), place) for place, key in enumerate(keys, 1)
        )

    @field_validator("retry_schedule")
    @classmethod
    def _schedule_usable(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) < 0:
            raise ValueError("must be one or more seconds, none negative")
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
    """The settings in ``pgbridge.toml``, without the rules that stand beside them."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        read = super()._read_file(file_path)
        return {key: value for key, value in read.items() if key not in RULE_TABLES}


def load_settings(**given: Any) -> Settings:
    """Read the settings; ``given`` overrides both variables and file.

    Raises:
        SettingsError: one line that names the first thing that is wrong.
    """
    named = os.environ.get("BRIDGE_CONFIG")
    if named and not Path(named).is_file():
        raise SettingsError(f"BRIDGE_CONFIG names {named}, and there is no such file")
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(_first_line(error)) from None
    except (ValueError, OSError) as error:  # the file is not TOML, or cannot be read
        raise SettingsError(f"{_config_path()}: {error}") from None


def parse_networks(items: Sequence[object]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return networks written as CIDR; an address without a prefix is the network of it alone.

    They open what is closed for safety, so nothing is guessed: each must be written as exactly what
    it means.

    Raises:
        ValueError: one line that names the first wrong item and says how to write it.
    """
    return tuple(_network(item) for item in items)


def _network(item: object) -> IPv4Network | IPv6Network:
    if isinstance(item, IPv4Network | IPv6Network):
        return item
    # Python's ipaddress also takes numbers, masks and zones.
    if not isinstance(item, str) or not re.fullmatch(r"[0-9A-Fa-f.:]+(/[0-9]+)?", item):
        raise ValueError(f"{item!r} is not a network; write them like {_NETWORKS}")
    try:
        around = ip_network(item, strict=False)
    except ValueError:
        raise ValueError(f"{item!r} is not a network; write them like {_NETWORKS}") from None
    address = ip_address(item.partition("/")[0])
    if address != around.network_address:
        raise ValueError(f"{item} is not exact; write {around}, or {address} for this one address")
    if isinstance(around, IPv6Network) and around.subnet_of(_MAPPED):
        plain = IPv4Network((int(address) & 0xFFFFFFFF, around.prefixlen - _MAPPED.prefixlen))
        raise ValueError(f"{item} is IPv4 in the form of IPv6; write {plain}")
    return around


def config_text() -> str:
    """Return the text of ``pgbridge.toml``, or nothing where there is no such file.

    Raises:
        SettingsError: it cannot be read.
    """
    path = _config_path()
    try:
        return path.read_text("utf-8") if path.is_file() else ""
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from None


def unknown_variables() -> list[str]:
    """Return the ``BRIDGE_*`` variables that are set and mean nothing, such as misspelt ones."""
    known = {f"BRIDGE_{field.upper()}" for field in Settings.model_fields} | {"BRIDGE_CONFIG"}
    return sorted(name for name in os.environ if name.startswith("BRIDGE_") and name not in known)


def _config_path() -> Path:
    return Path(os.environ.get("BRIDGE_CONFIG") or "pgbridge.toml")


def _split(value: object) -> object:
    """Turn the comma-separated text of a variable into a list; leave a file's list alone."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _secret_key(text: str, place: int) -> SecretStr:
    """Return a key in URL-safe base64; the message about a wrong one only says which it is."""
    encoded = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) != SECRET_KEY_BYTES:
        raise ValueError(
            f"key {place} must be {SECRET_KEY_BYTES} bytes in base64, "
            f"as this prints them: openssl rand -base64 {SECRET_KEY_BYTES}"
        )
    return SecretStr(base64.urlsafe_b64encode(key).decode())


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "settings"
    name = "BRIDGE_DATABASE_URL" if field == "DATABASE_URL" else field
    if not name.startswith("BRIDGE_"):
        name = f"BRIDGE_{name.upper()}"
    if first["type"] == "missing":
        return f"{name} is not set; set it to the application's database, postgresql://user:password@host/database"
    if first["type"] == "extra_forbidden":
        return f"{_config_path()}: unknown key {field!r}"
    return f"{name}: {first['msg'].removeprefix('Value error, ')}"
