"""The wheel contains everything needed to run pgbridge."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]

RENDER = """
import sys
from importlib.resources import files
from bridge import assets
from bridge.capture.rules import load_preset
from bridge.capture.render import Column, Table, render

assert str(files("bridge")).startswith(sys.prefix), files("bridge")
assert len(assets.migrations()) >= 4
rules = load_preset("telegram-shop")
for position, rule in enumerate(rules, start=1):
    rendered = render(rule, Table({"id": Column("integer")}), position)
    print(rendered.function_sql)
"""

INSTALL = """
import sys
from bridge.capture.apply import apply_steps
from bridge.capture.plan import plan_install
from bridge.database.sessions import open_session
from bridge.capture.rules import load_preset

with open_session(sys.argv[1]) as connection:
    steps = plan_install(connection, load_preset("telegram-shop")).steps
    apply_steps(connection, steps, lock_timeout_seconds=1.0, report=print)
"""


def run(*command: object, cwd: Path) -> str:
    # Without the checkout and the user's settings.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "BRIDGE_", "DATABASE_URL", "PIP_"))
    }
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout offline."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT),
        cwd=folder,
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the dependencies of the current environment."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    packages = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home
        ).strip()
    )
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--quiet", "--no-deps", "--no-index", "--no-warn-script-location", wheel),
        cwd=home,
    )
    # Python ignores .pth files in a folder named by one, so an editable install stays hidden.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return python


def test_wheel_contains_exactly_code_sql_and_templates(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"{inside}{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in [
            ("bridge", "bridge/"),
            ("sql", "bridge/_sql/"),
            ("templates", "bridge/_templates/"),
        ]
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    # The console's live feed uses it.
    expected.add("bridge/_templates/console/static/pgbridge.js")
    assert held == expected
    assert "bridge/_sql/migrations/0001_create_capture.sql" in held
    assert "bridge/_templates/presets/telegram-shop.toml" in held


def test_wheel_declares_license_command_and_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [entry_points] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        assert "pgbridge = bridge.__main__:main" in archive.read(entry_points).decode()
        text = archive.read(metadata).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert "\nRequires-Python: >=3.11\n" in text
    assert "\nLicense-Expression: MIT\n" in text


def test_installed_wheel_renders_rules(clean_python: Path, tmp_path: Path) -> None:
    rendered = run(clean_python, "-c", RENDER, cwd=tmp_path)
    assert rendered.count("create or replace function bridge.capture_") == 8


def test_installed_wheel_initializes_a_database(
    clean_python: Path, tmp_path: Path, bot_url: str
) -> None:
    run(clean_python, "-c", INSTALL, bot_url, cwd=tmp_path)
    with psycopg.connect(bot_url) as connection:
        row = connection.execute("select count(*) from bridge.capture_rules").fetchone()
    assert row == (8,)


def test_installed_wheel_prints_its_plan(clean_python: Path, tmp_path: Path, bot_url: str) -> None:
    command = clean_python.parent / "pgbridge"
    script = run(
        *("/usr/bin/env", f"BRIDGE_DATABASE_URL={bot_url}", command, "init", "--dry-run"),
        cwd=tmp_path,
    )
    assert "create schema bridge;" in script
    with psycopg.connect(bot_url, autocommit=True) as connection:
        connection.execute(script.encode())
        row = connection.execute("select count(*) from bridge.capture_rules").fetchone()
    assert row == (8,)
