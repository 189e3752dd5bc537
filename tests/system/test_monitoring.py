"""Alerts and dashboard use existing metrics, and alerts fire when they should."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bridge.demo.postgres import EmbeddedPostgres
from tests.docs.guides import NOT_RUN, Shell, blocks, first_line, guide
from tests.receiver import answer, receiving
from tests.system.processes import listening, running
from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/pgbridge.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))[
    "groups"
][0]["rules"]
#: Labels and series that Prometheus itself adds.
OF_PROMETHEUS = {"job", "instance"}
SERIES_OF_PROMETHEUS = {"up": set[str](), "ALERTS": {"alertname", "alertstate"}}
#: Words of PromQL.
WORDS = {
    *("absent", "by", "count", "histogram_quantile", "increase", "max", "min", "offset", "or"),
    *("rate", "sum", "time", "unless", "vector"),
}
#: Labels and their values, by the name of the sample.
Shown = dict[str, dict[str, set[str]]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def filled_in(text: str) -> str:
    """Return a query of the dashboard as Grafana sends it."""
    return (
        text.replace("$__rate_interval", "1m")
        .replace("$job", "pgbridge")
        .replace("$instance", ".*")
    )


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each expression with its location."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", filled_in(target["expr"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert found is not None
            yield f"variable {variable['name']}", filled_in(f"max by ({found[2]}) ({found[1]})")


async def shown_by_a_bridge(url: str, wanted: set[str]) -> Shown:
    """Cause all kinds of events, and return the metrics of two workers once all are there."""
    shown: Shown = {}
    with trio.move_on_after(PATIENCE_SECONDS):
        async with receiving() as receiver:
            receiver.behaviours |= {
                "/gone": answer("410 Gone"),
                "/broken": answer("500 Internal Server Error"),
            }
            with psycopg.connect(url, autocommit=True) as owner:
                for path in ("/good", "/gone", "/broken"):
                    owner.execute(
                        "insert into bridge.webhooks (name, url, event_type)"
                        " values ('test', %s, 'user.created')",
                        (receiver.url(path),),
                    )
                # From now on this rule fails.
                owner.execute("alter table public.users drop column referral_code")
                async with (
                    running(url, "--workers", "2", poll_seconds=0.2) as bridge,
                    listening(bridge) as client,
                    httpx.AsyncClient() as asking,
                ):
                    owner.execute("insert into public.users (auth_type) values ('telegram')")
                    await client.get_message()
                    await asking.get(f"{bridge.rest_url}/webhooks")
                    while not wanted <= shown.keys():
                        await trio.sleep(0.2)
                        shown = samples((await asking.get(f"{bridge.rest_url}/metrics")).text)
    return shown


def samples(text: str) -> Shown:
    shown: Shown = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = shown.setdefault(sample.name, defaultdict(set))
            for label, value in sample.labels.items():
                labels[label].add(value)
    return shown


def names_and_matchers(expression: str) -> Iterator[tuple[str, str]]:
    """Yield the metrics of an expression with their label matchers."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]|\b(by|offset)\s*(\([^)]*\)|\w+)', "", expression)
    names = set(re.findall(r"\b[a-zA-Z_]\w*\b", re.sub(r"\{[^}]*\}", "", bare))) - WORDS
    for name in names:
        for behind in re.findall(rf"\b{name}\b(?:\{{([^}}]*)\}})?", expression):
            yield name, behind


async def test_dashboard_and_alerts_use_existing_metrics(bridge_url: str) -> None:
    asked = {name for _, each in expressions() for name, _ in names_and_matchers(each)}
    shown = await shown_by_a_bridge(bridge_url, asked - SERIES_OF_PROMETHEUS.keys())
    for place, expression in expressions():
        known = set(OF_PROMETHEUS)
        for name, matchers in names_and_matchers(expression):
            if name in SERIES_OF_PROMETHEUS:
                known |= SERIES_OF_PROMETHEUS[name]
                continue
            assert name in shown, f"{place}: {name}"
            known |= shown[name].keys()
            for label, operator, wanted in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', matchers):
                if label in OF_PROMETHEUS:
                    continue
                assert label in shown[name], f"{place}: {label}"
                values = wanted.split("|") if "~" in operator else [wanted]
                assert set(values) <= shown[name][label], f"{place}: {wanted}"
        for labels in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(labels.split(", ")) <= known, f"{place}: {labels}"
    # Every metric is used somewhere.
    whole = {re.sub("_(sum|count|created)$", "_bucket", name) for name in shown}
    unseen = {name for name in whole if name.startswith("pgbridge_")} - asked
    assert {name for name in unseen if name.removesuffix("_bucket") + "_total" not in shown} == {
        "pgbridge_doorbell_mode"
    }


def test_legends_use_labels_of_their_expression() -> None:
    for panel in panels():
        for target in panel["targets"]:
            legend = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            if legend and kept:
                assert legend <= set(kept[0].split(", ")), panel["title"]


def test_dashboard_is_complete() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("pgbridge", "pgbridge")
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Overview",
        "Latency",
        "Capture and relay",
        "Live stream",
        "Deliveries",
        "Webhooks",
        "Database and process",
    ]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "job", "instance"]


def headings(page: str) -> set[str]:
    found = re.findall(r"^#+ (.*)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def test_every_alert_has_severity_description_and_runbook() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 11
    for rule in RULES:
        assert rule["alert"].startswith("Pgbridge")
        assert rule["labels"] == {"severity": rule["labels"]["severity"]}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert len(rule["annotations"]["description"]) > 60
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor in headings(page), rule["alert"]


def test_every_alert_is_documented_and_tested() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| `(Pgbridge\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert listed == {rule["alert"]: rule["labels"]["severity"] for rule in RULES}
    tried = (PROMETHEUS / "alerts_test.yml").read_text("utf-8")
    assert set(re.findall(r'alertname="(\w+)"', tried)) == listed.keys()


async def test_documented_commands_run(
    server: EmbeddedPostgres, bridge_url: str, tmp_path: Path
) -> None:
    page, *_ = found = [block for kind, block in blocks(guide("metrics.md")) if kind == "sh"]
    assert ("docs/metrics.md", first_line(page)) in NOT_RUN
    shell = Shell("docs/metrics.md", tmp_path, server, bridge_url)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    async with running(bridge_url) as bridge:
        shell.stands_for = {"127.0.0.1:8090": f"127.0.0.1:{bridge.port}"}
        for block in found:
            if "promtool" in block and shutil.which("promtool") is None:
                continue  # the tests below report it
            printed = await trio.to_thread.run_sync(shell.run, block)
            if "/metrics" in block:
                assert "pgbridge_build_info" in printed


# --- promtool


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing: it comes with Prometheus")
    return found


def run(*command: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_configuration_and_alerts(promtool: str) -> None:
    run(promtool, "check", "config", "deploy/prometheus/prometheus.yml")


def test_each_alert_fires_alone(promtool: str) -> None:
    run(promtool, "test", "rules", "deploy/prometheus/alerts_test.yml")


def test_late_alert_fails_its_test(promtool: str, tmp_path: Path) -> None:
    text = (PROMETHEUS / "alerts.yml").read_text("utf-8")
    (tmp_path / "alerts.yml").write_text(text.replace("> 60\n", "> 6000\n"), "utf-8")
    shutil.copy(PROMETHEUS / "alerts_test.yml", tmp_path)
    with pytest.raises(AssertionError, match="PgbridgeOutboxOld"):
        run(promtool, "test", "rules", str(tmp_path / "alerts_test.yml"))


def test_every_expression_of_the_dashboard_parses(promtool: str, tmp_path: Path) -> None:
    # promtool checks only rules, so make one of each expression.
    rules = [
        {"record": f"expression:{number}", "expr": expression}
        for number, (_, expression) in enumerate(expressions())
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    run(promtool, "check", "rules", str(path))
