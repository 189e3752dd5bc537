"""Files outside the code are consistent with it."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge import assets
from bridge.cli.lazy import Entry
from bridge.cli.main import COMMANDS
from bridge.settings import Settings
from bridge.web.console.rendering import ROOMS

ROOT = Path(__file__).parents[2]
CODE = "\n".join(path.read_text("utf-8") for path in (ROOT / "bridge").rglob("*.py"))
MODULES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "bridge").rglob("*.py"))
QUERIES = sorted(path.stem for path in (ROOT / "sql" / "queries").iterdir())
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
)
MIGRATIONS = [name for name, _ in assets.migrations()]


# --- the tree


def test_root_of_the_package_has_at_most_six_modules() -> None:
    assert len(list((ROOT / "bridge").glob("*.py"))) <= 6


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module: str) -> None:
    text = (ROOT / module).read_text("utf-8")
    assert text.count("\n") <= 400
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 80
    ]
    assert long == []


def test_contributing_lists_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rooms = text.split("## The rooms")[1].split("\n## ")[0]
    listed = re.findall(r"^    (\S+)  ", rooms, re.MULTILINE)
    modules = list((ROOT / "bridge").glob("[a-z]*.py"))
    packages = [path.parent for path in (ROOT / "bridge").glob("*/**/__init__.py")]
    others = [
        path
        for name in ("sql", "templates", "tests")
        for path in (ROOT / name).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    ]
    tops = [ROOT / name for name in ("examples", "docs", "deploy")]
    names = {f"{path.relative_to(ROOT)}/" for path in [*packages, *others, *tops]}
    assert sorted(listed) == sorted({f"{path.relative_to(ROOT)}" for path in modules} | names)


# --- SQL


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_is_used(name: str) -> None:
    assert f'"{name}"' in CODE


def test_every_used_query_exists() -> None:
    called = re.findall(r"\b(?:fetch|query)\(\s*\"(\w+)\"", CODE)
    assert called
    assert sorted(set(called) - set(QUERIES)) == []


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_begins_with_a_comment(name: str) -> None:
    assert assets.query(name).startswith("-- ")


@pytest.mark.parametrize("name", QUERIES)
def test_queries_that_lock_rows_read_no_partitioned_table(name: str) -> None:
    """PostgreSQL 18 can crash if a statement rechecks a locked row and prunes partitions."""
    sql = re.sub("--.*", "", assets.query(name))
    if re.search(r"\bfor (no key )?update\b|\bupdate bridge\.|\bdelete from\b", sql):
        assert not re.findall(
            r"(?:from|join) bridge\.(?:events|delivery_log|delivery_attempts)\b", sql
        )


def test_statement_budget_lists_every_query_once() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    budget = text.split("## Statement budget")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", budget, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(QUERIES)


def test_migrations_are_numbered_and_named() -> None:
    assert [name[:4] for name in MIGRATIONS] == [
        f"{number:04}" for number in range(1, len(MIGRATIONS) + 1)
    ]
    assert [
        name for name in MIGRATIONS if not re.fullmatch(r"\d{4}(_[a-z0-9]+){2,}\.sql", name)
    ] == []


# --- the command


def imported_by(program: str) -> set[str]:
    program = f"import sys; {program}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(ran.stdout.decode().splitlines()[-1].split())


def test_commands_do_not_import_the_daemon() -> None:
    modules = sorted({entry.source.partition(":")[0] for entry in COMMANDS})
    imported = imported_by(f"import {', '.join(modules)}")
    assert {"bridge.cli.run", "psycopg"} <= imported
    assert imported & {"asyncpg", "fastapi", "httpx", "structlog", "trio"} == set()


def test_help_imports_no_command() -> None:
    imported = imported_by(
        "from bridge.cli.main import app; app(['--help'], standalone_mode=False)"
    )
    assert "bridge.cli.main" in imported
    own = {name for name in imported if name.startswith("bridge.")}
    assert own == {"bridge.cli", "bridge.cli.main", "bridge.cli.lazy"}
    assert imported & {"cryptography", "jinja2", "psycopg", "pydantic", "rich.console"} == set()


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_listed_help_is_that_of_the_command(entry: Entry) -> None:
    command = entry.load()
    assert command.hidden is entry.hidden
    if not entry.hidden:
        assert command.help.splitlines()[0] == entry.help


# --- the lock


# --- printing

#: Names that print, wherever they come from.
PRINTERS = {
    "print",
    "pprint",
    "echo",
    "secho",
    "print_exc",
    "print_exception",
    "print_tb",
    "Console",
}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def printing(tree: ast.AST) -> list[int]:
    """Return the lines of a module that print, or make something that does."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(name) if name in PRINTERS:
                lines.append(node.lineno)
            case ast.Attribute(ast.Attribute(_, stream), "write") if stream in STREAMS:
                lines.append(node.lineno)
            # Consoles are made above, and have their own print().
            case ast.Attribute(_, name) if name in PRINTERS - {"print"}:
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "line",
    [
        "print(row)",
        "typer.echo(row)",
        "click.secho(row)",
        "traceback.print_exc()",
        "sys.stderr.write(row)",
        "rich.console.Console().print(row)",
        "Console(stderr=True)",
    ],
)
def test_printing_is_found(line: str) -> None:
    assert printing(ast.parse(line))


def test_only_the_output_module_prints() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "bridge").rglob("*.py"))
        if path != ROOT / "bridge/terminal/output.py"
        for line in printing(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


def test_every_locked_package_is_pinned_once() -> None:
    lines = (ROOT / "tests" / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 20
    assert [
        pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.+!]*", pin)
    ] == []
    names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
    assert len(names) == len(set(names))


def test_lock_contains_all_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(name for extra in extras for name in extra)]
    normal = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;! ]", name)[0]).lower() for name in asked}
    lock = (ROOT / "tests" / "constraints.txt").read_text("utf-8")
    locked = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lock.splitlines()}
    assert normal - locked == set(), "run make lock"


# --- the container


@pytest.fixture
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return parsed


def test_compose_bridge_waits_for_init_and_is_watched(compose: dict[str, Any]) -> None:
    bridge = compose["services"]["bridge"]
    assert bridge["depends_on"]["init"] == {"condition": "service_completed_successfully"}
    assert "/readyz" in " ".join(bridge["healthcheck"]["test"])
    assert bridge["restart"] == "unless-stopped"
    assert compose["services"]["init"]["command"] == ["init"]


def test_compose_database_is_optional_and_not_published(
    compose: dict[str, Any],
) -> None:
    postgres = compose["services"]["postgres"]
    assert postgres["profiles"] == ["postgres"]
    assert "ports" not in postgres
    for service in ("init", "bridge"):
        waits = compose["services"][service]["depends_on"]["postgres"]
        assert waits == {"condition": "service_healthy", "required": False}
        url = compose["services"][service]["environment"]["BRIDGE_DATABASE_URL"]
        assert "${BRIDGE_DATABASE_URL:-" in url
    # The schema's owner may differ from the bridge's role. init prefers the listen address.
    for name in ("BRIDGE_DATABASE_URL", "BRIDGE_LISTEN_URL"):
        assert compose["services"]["init"]["environment"][name].startswith("${BRIDGE_OWNER_URL:-")


def test_compose_requires_a_token_and_binds_to_localhost(
    compose: dict[str, Any],
) -> None:
    bridge = compose["services"]["bridge"]
    assert bridge["environment"]["BRIDGE_TOKEN"].startswith("${BRIDGE_TOKEN:?")
    assert bridge["ports"] == ["${BRIDGE_PUBLISH:-127.0.0.1:8080}:8080"]


def test_compose_monitoring_is_optional_pinned_and_local(
    compose: dict[str, Any],
) -> None:
    for service, port in (("prometheus", 9090), ("grafana", 3000)):
        given = compose["services"][service]
        assert given["profiles"] == ["monitoring"]
        assert re.search(r":v?\d+\.\d+\.\d+$", given["image"])
        assert given["ports"] == [f"${{{service.upper()}_PUBLISH:-127.0.0.1:{port}}}:{port}"]
        assert f"127.0.0.1:{port}/" in given["healthcheck"]["test"][-1]
        for volume in given["volumes"]:
            source, *_, last = volume.split(":")
            if source.startswith("./"):
                assert last == "ro"
                assert (ROOT / source).exists()
            else:
                assert source in compose["volumes"]
        # Compose checks required variables in every profile.
        assert "${GRAFANA_PASSWORD:?" not in str(given)
    # Prometheus scrapes this bridge, and Grafana queries this Prometheus.
    deployed = ROOT / "deploy"
    scraped = yaml.safe_load((deployed / "prometheus" / "prometheus.yml").read_text("utf-8"))
    [job] = scraped["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["bridge:8080"]}]
    provisioning = deployed / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text("utf-8"))[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    [provider] = yaml.safe_load((provisioning / "dashboards/pgbridge.yml").read_text("utf-8"))[
        "providers"
    ]
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/pgbridge.json" in mounted
    assert "/etc/grafana/provisioning" in mounted


def test_grafana_requires_a_password(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_PASSWORD:-}"
    # As Compose passes it.
    command = [
        part.replace("$$", "$").replace("/run.sh", "/bin/true") for part in grafana["entrypoint"]
    ]
    for password, code in (("", 1), ("secret", 0)):
        done = subprocess.run(
            command,
            env={"GF_SECURITY_ADMIN_PASSWORD": password},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert ("set GRAFANA_PASSWORD" in done.stderr) == (code == 1)


def test_compose_passes_on_access_settings(
    compose: dict[str, Any],
) -> None:
    given = compose["services"]["bridge"]["environment"]
    about_access = {
        f"BRIDGE_{field.upper()}"
        for field in Settings.model_fields
        if field.startswith(("bot_tokens", "trusted_", "access_")) or field.endswith("_origins")
    }
    assert len(about_access) == 8
    for name in about_access:
        assert given[name] == f"${{{name}:-}}"


def test_systemd_unit_is_unprivileged_and_stops_gracefully() -> None:
    # Keys may be repeated; later values are added.
    unit = configparser.RawConfigParser(delimiters="=", strict=False)
    unit.read(ROOT / "examples" / "pgbridge.service", "utf-8")
    service = unit["Service"]
    assert service["ExecStart"].endswith("/bin/pgbridge run")
    assert service["DynamicUser"] == "yes"
    assert "User" not in service
    # Attempts in flight have ten seconds.
    assert int(service["TimeoutStopSec"]) > 10
    assert service["Restart"] == "on-failure"
    # A restart does not help against wrong settings.
    assert service["RestartPreventExitStatus"] == "2"
    assert service["EnvironmentFile"] in (ROOT / "docs" / "install.md").read_text("utf-8")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is missing")
    text = (ROOT / "examples" / "pgbridge.service").read_text("utf-8")
    here = tmp_path / "pgbridge.service"
    here.write_text(text.replace("/opt/pgbridge/bin/pgbridge", sys.executable), "utf-8")
    for command in (["verify"], ["security", "--offline=yes", "--threshold=15"]):
        done = subprocess.run(
            ["systemd-analyze", "--no-pager", *command, str(here)],
            capture_output=True,
            text=True,
            check=False,
        )
        # Old versions cannot check the security of a file.
        too_old = command[0] == "security" and "unrecognized option" in done.stderr
        assert done.returncode == 0 or too_old, done.stdout + done.stderr


def test_files_copied_into_the_image_exist() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    copied = [
        source
        for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in [*copied, *re.findall(r"source=(tests/[^,]*)", dockerfile)]:
        assert source in kept
        assert (ROOT / source).exists()
    assert re.search(r"^USER (?!root|0)", dockerfile, re.MULTILINE)
    assert 'ENTRYPOINT ["pgbridge"]' in dockerfile


# --- Documents


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_works(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", path.read_text("utf-8"))
    for file, heading in links:
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), file
        if heading:
            assert heading in headings(target), f"{file}#{heading}"


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_exists_in_light_and_dark(page: str) -> None:
    path = ROOT / page
    pictures = re.findall(r"<picture>.*?</picture>", path.read_text("utf-8"), re.DOTALL)
    for picture in pictures:
        [dark], [light] = (
            re.findall(r"srcset=\"(.*?)\"", picture),
            re.findall(r"src=\"(.*?)\"", picture),
        )
        assert light.removesuffix("-light.png") == dark.removesuffix("-dark.png")
        assert (path.parent / light).is_file(), light
        assert (path.parent / dark).is_file(), dark


def test_console_page_lists_every_page_with_its_scope() -> None:
    text = (ROOT / "docs" / "console.md").read_text("utf-8")
    rows = re.findall(r"^\| ([A-Z][\w ]+) \| (?:any|`([a-z:]+)`)", text, re.MULTILINE)
    assert rows == [(title, scope or "") for _, _, title, scope in ROOMS]


def test_links_are_found() -> None:
    assert "3-the-bots-own-tokens" in headings(ROOT / "docs" / "access.md")
    assert "(docs/access.md#3-the-bots-own-tokens)" in (ROOT / "README.md").read_text("utf-8")


def test_every_source_of_the_comparison_is_cited() -> None:
    text = (ROOT / "docs" / "comparison.md").read_text("utf-8")
    said, sources = text.split("## Sources\n")
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \[.*\]\(https://", sources, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {int(number) for number in re.findall(r"\[(\d+)\]", said)} == set(numbers)
