"""Which errors mean that the database is away, and which that a statement failed."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest
from asyncpg.exceptions import _base

from bridge.database.errors import DatabaseError, DatabaseUnavailable, is_of_values, translated
from bridge.database.queries import unrepresentable


def reported(sqlstate: str, severity: str = "ERROR", message: str = "no") -> asyncpg.PostgresError:
    """Return an error as asyncpg makes it from the server's message."""
    fields = {"C": sqlstate, "M": message, "S": "FEHLER", "V": severity, "D": "a secret"}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


@contextmanager
def raising(error: BaseException) -> Iterator[None]:
    with translated():
        raise error
    yield


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        ssl.SSLCertVerificationError("self-signed certificate"),
        asyncpg.ClientConfigurationError("invalid DSN"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        _base.ProtocolError("cannot switch to state 12"),
        *(
            reported(sqlstate, "FATAL")
            for sqlstate in ("08006", "08P01", "28P01", "3D000", "53300", "57P01", "57P02", "57P03")
        ),
        reported("57P04", "FATAL"),
        reported("57P05", "FATAL"),
        reported("08P01"),
        reported("25006"),
    ],
    ids=repr,
)
def test_database_is_away(error: Exception) -> None:
    with pytest.raises(DatabaseUnavailable), raising(error):
        pass


@pytest.mark.parametrize(
    "sqlstate",
    [
        # A value, a constraint, a right, an object that is missing, a lock, resources.
        *("22P05", "22021", "22003", "23505", "23514", "42501", "42P01", "42703", "55P03", "40P01"),
        *("53100", "53200", "57014", "0A000", "P0001", "XX000", "XX002", "58030"),
        # Of code in the statement: a trigger that connects elsewhere, or says so.
        *("08001", "08006", "28000", "3D000", "53300", "57P01", "57P03"),
    ],
)
def test_error_of_a_statement_is_not_absence(sqlstate: str) -> None:
    with pytest.raises(DatabaseError) as caught, raising(reported(sqlstate)):
        pass
    assert (caught.value.sqlstate, caught.value.detail) == (sqlstate, None)


@pytest.mark.parametrize(
    "error",
    [
        _base.DataError("invalid input for query argument $1: 9223372036854775808"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
        OverflowError("date value out of range"),
        ValueError("year 10000 is out of range"),
    ],
    ids=repr,
)
def test_value_that_the_driver_cannot_handle_is_not_absence(error: Exception) -> None:
    with pytest.raises(DatabaseError, match="the driver cannot handle") as caught, raising(error):
        pass
    assert is_of_values(caught.value)


def test_changed_type_is_not_absence_and_can_be_retried() -> None:
    with pytest.raises(DatabaseError) as caught, raising(_base.OutdatedSchemaCacheError("changed")):
        pass
    assert not is_of_values(caught.value)


@pytest.mark.parametrize("error", [KeyError("x"), AttributeError("x")], ids=repr)
def test_bugs_are_not_absence(error: Exception) -> None:
    with pytest.raises(type(error)), raising(error):
        pass


@pytest.mark.parametrize(
    "message",
    [
        'character with byte sequence 0xd0 0x9c in encoding "{}" has no equivalent in "{}"',
        "Zeichen mit Byte-Folge 0xd0 0x9c in Kodierung »{}« hat keine Entsprechung in »{}«",
        'для символа с последовательностью байт 0xd0 0x9c из кодировки "{}" нет эквивалента в "{}"',
    ],
)
def test_character_that_an_encoding_lacks_is_named_in_every_language(message: str) -> None:
    given = reported("22P05", message=message.format("UTF8", "LATIN1"))
    assert unrepresentable(given) == ("М", "LATIN1")
    stored = reported("22P05", message=message.format("WIN1251", "UTF8"))
    assert unrepresentable(stored) is None


def test_other_untranslatable_text_is_no_character() -> None:
    error = reported("22P05", message="unsupported Unicode escape sequence")
    assert unrepresentable(error) is None
    assert unrepresentable(ValueError("0xd0")) is None
