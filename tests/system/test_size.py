"""A small version of the benchmark ``size``: everything moves within bounds of memory."""

from tests.stress.size import Size, run_at_size


async def test_everything_moves_at_size(bridge_url: str) -> None:
    size = Size(
        queued=5_000,
        events=3_000,
        webhooks=300,
        wide=20,
        huge=40,
        huge_bytes=2_000_000,
        limit="300ms",
    )
    outcome = await run_at_size(bridge_url, size)
    assert outcome.arrived == {"last", *range(100)}
    # Without limits in bytes, 80 MB of payload would take several times as much at once.
    assert outcome.bridge_mib < 250
    assert outcome.backend_mib < 120
