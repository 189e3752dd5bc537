"""What each answer means for a delivery."""

import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from bridge.delivery.retry import (
    LONGEST_RETRY_AFTER_SECONDS,
    Answer,
    Failure,
    Outcome,
    Verdict,
    judge,
    rule_of,
)
from bridge.settings import RETRY_SCHEDULE_SECONDS

NOW = 1_700_000_000.0


def verdict(answer: Answer, attempt_number: int = 1, *, random: float = 0.5) -> Verdict:
    return judge(
        answer,
        attempt_number=attempt_number,
        schedule=RETRY_SCHEDULE_SECONDS,
        now=NOW,
        random=lambda: random,
    )


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_success(status: int) -> None:
    assert verdict(Answer(status)) == Verdict(Outcome.SUCCESS)


@pytest.mark.parametrize(
    "status", [100, 199, 300, 301, 307, 400, 401, 404, 409, 422, 500, 502, 599]
)
def test_other_statuses_are_retried(status: int) -> None:
    result = verdict(Answer(status))
    assert result.outcome is Outcome.RETRY
    assert result.error is not None
    assert result.error.startswith(f"HTTP {status}")


def test_broken_2xx_response_is_retried() -> None:
    broken = verdict(
        Answer(200, failure=Failure.TIMEOUT_BODY, error="no complete answer within 15 s")
    )
    assert (broken.outcome, broken.error) == (Outcome.RETRY, "no complete answer within 15 s")
    assert verdict(Answer(error="cannot connect")).outcome is Outcome.RETRY


def test_410_fails_at_once_and_disables_the_webhook() -> None:
    result = verdict(Answer(410))
    assert result.outcome is Outcome.FAILED
    assert result.disable == "the receiver answered 410 Gone"


def test_delivery_fails_at_the_end_of_the_schedule() -> None:
    waits = [
        verdict(Answer(500), attempt).retry_seconds
        for attempt in range(1, len(RETRY_SCHEDULE_SECONDS))
    ]
    assert waits == [float(wait) for wait in RETRY_SCHEDULE_SECONDS[1:]]
    assert verdict(Answer(500), len(RETRY_SCHEDULE_SECONDS)).outcome is Outcome.FAILED


def test_waits_are_jittered_by_a_fifth_at_most() -> None:
    assert verdict(Answer(500), 2, random=0.0).retry_seconds == pytest.approx(300 * 0.8)
    assert verdict(Answer(500), 2, random=1.0).retry_seconds == pytest.approx(300 * 1.2)


@pytest.fixture
def far_east() -> Iterator[None]:
    """Make the local time ten hours ahead of UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC-10")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "60", 60),
        (503, "60", 60),
        (429, formatdate(NOW + 90, usegmt=True), 90),
        (500, "60", 5),  # only the two that mean it
        (429, "1", 5),  # never earlier than the schedule
        (429, None, 5),
        (429, "soon", 5),
        (429, "-5", 5),
        (429, "", 5),
        (429, formatdate(NOW - 90, usegmt=True), 5),
        (429, "59.2", 60),
        (429, " 60 ", 60),
        (429, "Tue Nov 14 22:14:20 2023", 60),
        (429, "Tuesday, 14-Nov-23 22:14:20 GMT", 60),
        (429, "Tue, 14 Nov 2023 22:14:20 UTC", 60),
        (429, "Tue, 14 Nov 2023 22:14:20 -0000", 60),
        (429, "Wed, 15 Nov 2023 01:14:20 +0300", 60),
        (429, "14 Nov 2023 22:14:20", 60),
        (429, "2023-11-14T22:14:20Z", 60),
        (429, "2023-11-15T01:14:20+03:00", 60),
        (429, "2023-11-14 22:14:20", 60),
        (429, "60s", 5),
        (429, "60, 70", 5),
        (429, "１２００", 5),
        (429, "nan", 5),
        (429, "1e3", 5),
        (429, "9" * 400, LONGEST_RETRY_AFTER_SECONDS),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER_SECONDS),
    ],
)
@pytest.mark.usefixtures("far_east")
def test_retry_after_is_obeyed_within_bounds(
    status: int, header: str | None, seconds: float
) -> None:
    assert verdict(Answer(status, retry_after=header)).retry_seconds == pytest.approx(seconds)


def test_every_status_has_a_rule() -> None:
    for status in range(100, 1000):
        outcome = rule_of(Answer(status)).outcome
        assert (outcome is Outcome.SUCCESS) is (200 <= status < 300)


@pytest.mark.parametrize("failure", list(Failure))
def test_only_a_missing_event_is_not_retried(failure: Failure) -> None:
    result = verdict(Answer(200, failure=failure, error="x"))
    expected = Outcome.FAILED if failure is Failure.NO_EVENT else Outcome.RETRY
    assert (result.outcome, result.failure, result.disable) == (expected, failure, None)


@pytest.mark.parametrize(
    ("status", "failure"), [(302, "3xx"), (404, "4xx"), (500, "5xx"), (700, "other")]
)
def test_failure_names_the_class_of_the_status(status: int, failure: str) -> None:
    assert verdict(Answer(status)).failure == f"http_{failure}"


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_pauses_the_whole_webhook(status: int) -> None:
    assert verdict(Answer(status, retry_after="120")).pause_seconds == 120
    assert verdict(Answer(500, retry_after="120")).pause_seconds == 0
