"""Another implementation can read the frames built by the bridge."""

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from bridge.live.framing import close_frame, text_frame


def client() -> WSConnection:
    """Return an open client connection."""
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="x", target="/")))
    list(server.events())
    client.receive_data(server.send(AcceptConnection()))
    list(client.events())
    return client


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_text_frame_of_any_size_is_one_message(length: int) -> None:
    reader = client()
    reader.receive_data(text_frame("x" * length))
    text = [event for event in reader.events() if isinstance(event, TextMessage)]
    assert "".join(event.data for event in text) == "x" * length
    assert text[-1].message_finished


def test_joined_frames_are_separate_messages() -> None:
    reader = client()
    reader.receive_data(text_frame("один") + text_frame("два 🎉"))
    assert [event.data for event in reader.events() if isinstance(event, TextMessage)] == [
        "один",
        "два 🎉",
    ]


def test_close_frame_has_code_and_reason() -> None:
    reader = client()
    reader.receive_data(close_frame(1013, "r" * 200))
    [event] = reader.events()
    assert isinstance(event, CloseConnection)
    assert (event.code, event.reason) == (1013, "r" * 123)
