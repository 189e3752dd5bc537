"""What an attempt's answer means for the delivery: done, once more, or given up.

Two tables say it all: ``BY_STATUS`` for answers, ``BY_FAILURE`` for attempts without a whole one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

#: Each wait of the schedule is stretched or shortened by up to this share.
JITTER = 0.2
#: The longest wait that a receiver may ask for.
LONGEST_RETRY_AFTER_SECONDS = 86_400.0


class Outcome(StrEnum):
    SUCCESS = "success"
    RETRY = "retry"
    FAILED = "failed"


class Failure(StrEnum):
    """Why there is no whole answer: ``delivery_attempts.failure``, and a label of metrics."""

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
    SECRET = "secret"  # noqa: S105 - a kind of failure, no secret
    NO_EVENT = "no_event"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of answer or failure means."""

    outcome: Outcome
    #: Said of it beside the status.
    remark: str = ""
    #: Whether its Retry-After is obeyed, for this delivery and for the whole webhook.
    obeys_retry_after: bool = False
    #: Why the webhook is to be disabled.
    disables: str | None = None


_RETRY: Final = Rule(Outcome.RETRY)
_BUSY: Final = Rule(Outcome.RETRY, obeys_retry_after=True)

#: The first entry that has the status, or its class, decides.
BY_STATUS: Final = {
    "2xx": Rule(Outcome.SUCCESS),
    "3xx": Rule(Outcome.RETRY, "redirects are not followed"),
    "410": Rule(Outcome.FAILED, disables="the receiver answered 410 Gone"),
    "429": _BUSY,
    "4xx": _RETRY,
    "503": _BUSY,
    "5xx": _RETRY,
    # Not in HTTP: 1xx are no answers, and from 600 on nothing is defined.
    "other": _RETRY,
}

#: What no receiver is to blame for is retried, too: an operator can mend a URL, a name, a setting.
BY_FAILURE: Final = {
    Failure.URL: _RETRY,
    Failure.BLOCKED: _RETRY,
    Failure.DNS: _RETRY,
    Failure.CONNECT: _RETRY,
    Failure.TLS: _RETRY,
    Failure.TIMEOUT_DNS: _RETRY,
    Failure.TIMEOUT_CONNECT: _RETRY,
    Failure.TIMEOUT_TLS: _RETRY,
    Failure.TIMEOUT_SEND: _RETRY,
    Failure.TIMEOUT_ANSWER: _RETRY,
    Failure.TIMEOUT_BODY: _RETRY,
    Failure.LOST: _RETRY,
    Failure.PROTOCOL: _RETRY,
    Failure.OVERSIZE: _RETRY,
    Failure.SECRET: _RETRY,
    # Nothing will bring it back.
    Failure.NO_EVENT: Rule(Outcome.FAILED),
    Failure.INTERNAL: _RETRY,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a receiver: a response, a failure, or a response that broke off."""

    status: int | None = None
    body: str | None = None
    failure: Failure | None = None
    #: The failure, for people.
    error: str | None = None
    #: The Retry-After header, as it was sent.
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the delivery, and of its webhook."""

    outcome: Outcome
    #: Kind of failure: a ``Failure``, or ``http_`` and the class of the status; None: success.
    failure: str | None = None
    #: The same, for people.
    error: str | None = None
    #: How long the delivery waits; for RETRY only.
    retry_seconds: float = 0.0
    #: How long the receiver wants to be left alone, with any delivery.
    pause_seconds: float = 0.0
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
        attempt_number: which attempt of the schedule this was, from 1.
        schedule: seconds to wait before each attempt; as many attempts are made as it is long.
        now: seconds since the epoch, for a Retry-After that names a date.
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
    """Return the entry of the tables that an answer falls under."""
    if answer.failure is not None:
        return BY_FAILURE[answer.failure]
    return BY_STATUS.get(str(answer.status)) or BY_STATUS[_class(answer.status)]


def describe(answer: Answer) -> str:
    """Say, for people, why an answer is no success."""
    remark = rule_of(answer).remark
    return answer.error or f"HTTP {answer.status}" + (f": {remark}" if remark else "")


def _class(status: int | None) -> str:
    return f"{status // 100}xx" if status is not None and 200 <= status < 600 else "other"


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
