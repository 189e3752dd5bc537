"""Decides what an attempt means for its delivery: success, retry or failure.

Two tables define it: ``BY_STATUS`` for responses, ``BY_FAILURE`` for missing or incomplete ones.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from math import ceil
from typing import Final

#: Each wait of the schedule is randomly changed by up to this share.
JITTER = 0.2
#: Longest wait that a receiver can request.
LONGEST_RETRY_AFTER_SECONDS = 86_400.0
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


class Outcome(StrEnum):
    """The result of an attempt."""

    SUCCESS = "success"
    RETRY = "retry"
    FAILED = "failed"


class Failure(StrEnum):
    """Why a response is missing or incomplete: ``delivery_attempts.failure`` and a metric label."""

    URL = "url"
    BLOCKED = "blocked"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT_DNS = "timeout_dns"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_TLS = "timeout_tls"
    TIMEOUT_SEND = "timeout_send"
    TIMEOUT_ANSWER = "timeout_answer"
    TIMEOUT_BODY = "timeout_body"
    LOST = "lost"
    PROTOCOL = "protocol"
    OVERSIZE = "oversize"
    SECRET = "secret"  # noqa: S105 - a kind of failure
    NO_EVENT = "no_event"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of response or failure means."""

    outcome: Outcome
    #: Shown after the status.
    remark: str = ""
    #: Whether Retry-After is obeyed, for this delivery and for the whole webhook.
    obeys_retry_after: bool = False
    #: Why the webhook is disabled; None: it is not.
    disables: str | None = None


_RETRY: Final = Rule(Outcome.RETRY)
_BUSY: Final = Rule(Outcome.RETRY, obeys_retry_after=True)

#: An entry for the status itself comes before one for its class.
BY_STATUS: Final = {
    "2xx": Rule(Outcome.SUCCESS),
    "3xx": Rule(Outcome.RETRY, "redirects are not followed"),
    "410": Rule(Outcome.FAILED, disables="the receiver answered 410 Gone"),
    "429": _BUSY,
    "4xx": _RETRY,
    "503": _BUSY,
    "5xx": _RETRY,
    # Invalid: 1xx are not final, and HTTP defines nothing from 600 on.
    "other": _RETRY,
}

#: Failures that are not the receiver's are retried too: an operator can correct a URL or setting.
BY_FAILURE: Final = {
    **dict.fromkeys(Failure, _RETRY),
    # The event will not come back.
    Failure.NO_EVENT: Rule(Outcome.FAILED),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, a failure, or both if the response is incomplete."""

    status: int | None = None
    body: str | None = None
    failure: Failure | None = None
    #: Describes the failure to people.
    error: str | None = None
    #: The Retry-After header as received.
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to the delivery and its webhook."""

    outcome: Outcome
    #: A ``Failure``, or ``http_`` and the class of the status; None: success.
    failure: str | None = None
    #: Describes the failure to people.
    error: str | None = None
    #: Wait before the next attempt; for RETRY only.
    retry_seconds: float = 0.0
    #: How long no delivery goes to the webhook, as its receiver requested.
    pause_seconds: float = 0.0
    #: Why the webhook is disabled; None: it is not.
    disable: str | None = None


def judge(
    answer: Answer,
    *,
    attempt_number: int,
    schedule: Sequence[float],
    now: float,
    random: Callable[[], float],
) -> Verdict:
    """Decide what an attempt means.

    Args:
        attempt_number: the attempt's number in the schedule, from 1.
        schedule: seconds to wait before each attempt; its length is the maximum number of attempts.
        now: seconds since the epoch, for a Retry-After with a date.
        random: returns a number from 0 to 1.
    """
    rule = rule_of(answer)
    if rule.outcome is Outcome.SUCCESS:
        return Verdict(Outcome.SUCCESS)
    failure = answer.failure or f"http_{_class(answer.status)}"
    error = describe(answer)
    pause = _retry_after_seconds(answer.retry_after, now) if rule.obeys_retry_after else 0.0
    if rule.outcome is Outcome.FAILED or attempt_number >= len(schedule):
        return Verdict(Outcome.FAILED, failure, error, pause_seconds=pause, disable=rule.disables)
    wait = schedule[attempt_number] * (1 + JITTER * (2 * random() - 1))
    return Verdict(
        Outcome.RETRY, failure, error, retry_seconds=max(wait, pause), pause_seconds=pause
    )


def rule_of(answer: Answer) -> Rule:
    """Return the table entry for an answer."""
    if answer.failure is not None:
        return BY_FAILURE[answer.failure]
    return BY_STATUS.get(str(answer.status)) or BY_STATUS[_class(answer.status)]


def describe(answer: Answer) -> str:
    """Return why an answer is not a success, for people."""
    remark = rule_of(answer).remark
    return answer.error or f"HTTP {answer.status}" + (f": {remark}" if remark else "")


def _class(status: int | None) -> str:
    return f"{status // 100}xx" if status is not None and 200 <= status < 600 else "other"


def _retry_after_seconds(header: str | None, now: float) -> float:
    """Return the wait that a Retry-After requests, in whole seconds; 0 if it is invalid.

    RFC 9110 has seconds and dates in three forms. Receivers also send fractions and ISO 8601.
    """
    if header is None:
        return 0.0
    try:
        if _SECONDS.fullmatch(header.strip()):
            seconds = float(header)
        else:
            seconds = _date(header.strip()).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return float(ceil(min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)))


def _date(text: str) -> datetime:
    """Parse a date. Without a time zone, or with the zone -0000, it is in UTC."""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        date = parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)
