"""Where frames begin in what a client sends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.live.intake import FrameCounter
from tests.unit.serving import BINARY, frame

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536]) | st.integers(0, 2000)


def unmasked(payload: bytes) -> bytes:
    """Return a frame without a mask: it breaks the protocol, and is counted all the same."""
    return bytes([0x82, len(payload)]) + payload if len(payload) < 126 else frame(BINARY, payload)


@given(st.lists(SIZES, max_size=6), st.booleans(), st.integers(1, 4), st.data())
def test_frames_are_counted_whole_in_whatever_pieces_they_come(
    sizes: list[int], masked: bool, most: int, data: st.DataObject
) -> None:
    made = [frame(BINARY, bytes(size)) if masked else unmasked(bytes(size)) for size in sizes]
    sent = b"".join(made)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=8).map(sorted))
    frames, begun, taken_in_all = FrameCounter(), 0, 0
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        piece = sent[start:end]
        while piece:
            taken, count = frames.take(piece, most)
            assert 0 < taken <= len(piece)
            assert count <= most
            piece = piece[taken:]
            taken_in_all += taken
            begun += count
            # Up to the end of a frame, unless the piece ends before.
            assert not piece or taken_in_all == sum(map(len, made[:begun]))
    assert (taken_in_all, begun) == (len(sent), len(made))
