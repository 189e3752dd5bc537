"""Metrics are documented, exposed in Prometheus' format, and merged over workers."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Enum, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bridge.operations.overview import WEBHOOK_STATES
from bridge.telemetry import metrics
from bridge.telemetry.exposition import merge_metrics, render_metrics
from bridge.telemetry.histogram import BOUNDS, BUCKETS
from bridge.telemetry.metrics import DROPPED

ROOT = Path(__file__).parents[2]


def of_worker(count: int, rule: str) -> bytes:
    registry = CollectorRegistry()
    Counter("errors", "How many.", ["rule"], registry=registry).labels(rule).inc(count)
    Enum("mode", "Which.", states=["a", "b"], registry=registry).state("b")
    return generate_latest(registry)


def lines(merged: bytes) -> list[str]:
    return [line for line in merged.decode().splitlines() if "_created" not in line]


def test_merged_samples_have_their_worker_and_families_appear_once() -> None:
    assert lines(merge_metrics({2: of_worker(3, 'x"y\n'), 1: of_worker(5, "z")})) == [
        "# HELP errors_total How many.",
        "# TYPE errors_total counter",
        'errors_total{rule="z",worker="1"} 5.0',
        'errors_total{rule="x\\"y\\n",worker="2"} 3.0',
        "# HELP mode Which.",
        "# TYPE mode gauge",
        'mode{mode="a",worker="1"} 0.0',
        'mode{mode="b",worker="1"} 1.0',
        'mode{mode="a",worker="2"} 0.0',
        'mode{mode="b",worker="2"} 1.0',
    ]


async def test_merging_loses_no_sample() -> None:
    own = await render_metrics()
    merged = merge_metrics({1: own}).decode()
    for worker in ('{worker="1"}', ',worker="1"'):
        merged = merged.replace(worker, "")
    assert merged == own.decode()


# --- the document

PAGE = (ROOT / "docs" / "metrics.md").read_text("utf-8")


def documented() -> dict[str, str]:
    """Return the kinds by the names on the page."""
    return {
        name: kind
        for names, kind in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ?(\w*) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
        if name.startswith(("pgbridge_", "process_"))
    }


async def test_page_lists_every_metric_with_its_kind() -> None:
    shown = {}
    for family in text_string_to_metric_families((await render_metrics()).decode()):
        if family.name.endswith("_created"):
            continue  # prometheus-client's own start times
        # The parser keeps _total in the name of a counter without samples.
        total = "_total" if family.type == "counter" else ""
        name = family.name.removesuffix("_total") + total
        shown[name] = family.type if name.startswith("pgbridge_") else ""
    assert documented() == shown


def test_page_lists_reasons_states_and_buckets() -> None:
    for name in (*DROPPED, *WEBHOOK_STATES, "due", "scheduled", "held", "busy", "idle"):
        assert f"`{name}`" in PAGE, name
    [milliseconds] = re.findall(r"Buckets of the histograms: (.*) ms,", PAGE)
    assert [float(each) / 1000 for each in re.findall(r"[\d.]+", milliseconds)] == list(BOUNDS[:12])
    [seconds, minutes] = re.findall(r"ms, (.*) s, (.*)\n", PAGE)[0]
    assert [float(each) for each in re.findall(r"[\d.]+", seconds)] == list(BOUNDS[12:16])
    assert [60 * float(each) for each in re.findall(r"\d+", f"{minutes} 60")] == list(BOUNDS[16:])


# --- what is shown


async def sample(name: str, **labels: str) -> float | None:
    """Return the value of a sample, or None if it is absent."""
    for family in text_string_to_metric_families((await render_metrics()).decode()):
        for each in family.samples:
            if each.name == name and each.labels == labels:
                return float(each.value)
    return None


async def test_histogram_is_exposed_with_cumulative_buckets() -> None:
    metrics.commit_to_drained.counts[:] = [0] * BUCKETS
    metrics.commit_to_drained.sum_seconds = 0.0
    metrics.commit_to_drained.observe_all([0.0005, 0.004, 0.004, 7200.0])
    name = "pgbridge_commit_to_drained_seconds"
    assert await sample(f"{name}_bucket", le="0.001") == 1
    assert await sample(f"{name}_bucket", le="0.005") == 3
    assert await sample(f"{name}_bucket", le="3600.0") == 3
    assert await sample(f"{name}_bucket", le="+Inf") == 4
    assert await sample(f"{name}_count") == 4
    assert await sample(f"{name}_sum") == 7200.0085


async def test_unknown_values_are_absent() -> None:
    metrics.outbox_events.show(3)
    metrics.webhooks.show_states({"paused": 2})
    assert await sample("pgbridge_outbox_events") == 3
    assert await sample("pgbridge_webhooks", state="paused") == 2
    metrics.outbox_events.show(None)
    metrics.webhooks.show_states({})
    assert await sample("pgbridge_outbox_events") is None
    assert await sample("pgbridge_webhooks", state="paused") is None


async def test_count_of_the_database_is_exposed_as_a_counter() -> None:
    metrics.events_captured.show(12)
    assert await sample("pgbridge_events_captured_total") == 12
    metrics.events_captured.show(None)


async def test_number_of_rule_labels_is_bounded() -> None:
    for number in range(2 * metrics.MOST_RULES):
        metrics.count_capture_errors(f"invented.{number}", 1)
    families = text_string_to_metric_families((await render_metrics()).decode())
    [errors] = [each for each in families if each.name == "pgbridge_capture_errors"]
    labels = {each.labels["rule"] for each in errors.samples}
    assert len(labels) == metrics.MOST_RULES + 1
    assert "other" in labels


async def test_requests_are_counted_by_class_of_status() -> None:
    before = await sample("pgbridge_requests_total", status="4xx")
    for status in (404, 422, 200, 600):
        metrics.count_request(status)
    after = await sample("pgbridge_requests_total", status="4xx")
    assert after == (before or 0) + 2
