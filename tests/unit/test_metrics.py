"""What several workers have counted becomes one exposition."""

from prometheus_client import CollectorRegistry, Counter, Enum, generate_latest

from bridge.metrics import exposition, merge_expositions


def of_worker(count: int, rule: str) -> bytes:
    registry = CollectorRegistry()
    Counter("errors", "How many.", ["rule"], registry=registry).labels(rule).inc(count)
    Enum("mode", "Which.", states=["a", "b"], registry=registry).state("b")
    return generate_latest(registry)


def lines(merged: bytes) -> list[str]:
    return [line for line in merged.decode().splitlines() if "_created" not in line]


def test_each_sample_has_its_worker_and_each_family_stands_once() -> None:
    assert lines(merge_expositions({2: of_worker(3, 'x"y\n'), 1: of_worker(5, "z")})) == [
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


async def test_nothing_of_a_bridges_own_exposition_is_lost() -> None:
    own = await exposition()
    merged = merge_expositions({1: own}).decode()
    for worker in ('{worker="1"}', ',worker="1"'):
        merged = merged.replace(worker, "")
    assert merged == own.decode()
