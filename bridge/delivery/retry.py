"""What an attempt's answer means for the delivery: done, once more, or given up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

#: Each wait of the schedule is stretched or shortened by up to this share.
JITTER = 0.2
#: The longest wait that a receiver may ask for.
LONGEST_RETRY_AFTER_SECONDS = 86_400.0


class Outcome(StrEnum):
    SUCCESS = "success"
    RETRY = "retry"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a receiver: a response, an error, or a response that broke off."""

    status: int | None = None
    body: str | None = None
    error: str | None = None
    #: The Retry-After header, as it was sent.
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the delivery. ``retry_seconds`` is meant for RETRY only."""

    outcome: Outcome
    error: str | None = None
    retry_seconds: float = 0.0
    #: Why the webhook is to be disabled; None: it is not.
    disable: str | None = None


def judge(
    answer: Answer,
    *,
    attempt_number: int,
    schedule: Sequence[float],
    now: float,
    random: Callable[[], float],
) -> Verdict:
    """Decide what an attempt's answer means.

    Args:
        attempt_number: which attempt this was, from 1.
        schedule: seconds to wait before each attempt; as many attempts are made as it is long.
        now: seconds since the epoch, for a Retry-After that names a date.
        random: returns a number from 0 to 1.
    """
    status = answer.status
    if answer.error is None and status is not None and 200 <= status < 300:
        return Verdict(Outcome.SUCCESS)
    error = answer.error or _describe(status)
    if answer.error is None and status == 410:
        return Verdict(Outcome.FAILED, error, disable="the receiver answered 410 Gone")
    if attempt_number >= len(schedule):
        return Verdict(Outcome.FAILED, error)
    wait = schedule[attempt_number] * (1 + JITTER * (2 * random() - 1))
    if status in (429, 503):
        wait = max(wait, _retry_after_seconds(answer.retry_after, now))
    return Verdict(Outcome.RETRY, error, retry_seconds=wait)


def _describe(status: int | None) -> str:
    if status is None:
        return "no answer"
    if 300 <= status < 400:
        return f"HTTP {status}: redirects are not followed"
    return f"HTTP {status}"


def _retry_after_seconds(header: str | None, now: float) -> float:
    """Return the wait that a Retry-After asks for, in either form; 0 if it makes no sense."""
    if header is None:
        return 0.0
    try:
        seconds = float(header) if header.strip().isdigit() else _date(header) - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _date(header: str) -> float:
    return parsedate_to_datetime(header).timestamp()
