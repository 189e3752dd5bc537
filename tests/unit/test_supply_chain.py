"""The lock pins every version, and the audit reports known vulnerabilities."""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.packaging.audit import CLEAN, UNKNOWN, UNREACHED, VULNERABLE, main, verdict

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ASKED = [
    Requirement(each)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for each in group
]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "tests" / "constraints.txt").read_text("utf-8"), re.M
    )
}
#: The oldest Python, which creates the lock because it needs the most packages.
OLDEST = {"python_version": "3.11", "python_full_version": "3.11.0"}


# --- the lock


@pytest.mark.parametrize("requirement", ASKED, ids=lambda each: each.name)
def test_dependencies_have_lower_bounds_below_their_pins(
    requirement: Requirement,
) -> None:
    assert {each.operator for each in requirement.specifier} == {">="}
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), f"{requirement}, and the lock has {pin}"


def test_lock_contains_no_unused_package() -> None:
    needed: set[str] = set()
    waiting = [(canonicalize_name(each.name), frozenset(each.extras)) for each in ASKED]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        needed.add(name)
        for requirement in _requirements(name, extras):
            package = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if package not in seen:
                seen.add(package)
                waiting.append(package)
    assert sorted(set(PINS) - needed) == [], "run make lock"


def _requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield a package's dependencies on the oldest Python; none if it is not installed."""
    try:
        required = requires(name) or []
    except PackageNotFoundError:
        return
    for text in required:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(
            marker.evaluate({**OLDEST, "extra": extra}) for extra in ("", *extras)
        ):
            yield requirement


# --- the audit


def package(name: str, *vulnerabilities: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": list(vulnerabilities)}


SKIPPED = {"name": "s", "skip_reason": "unknown to the service"}


def test_clean_audit_counts_checked_packages() -> None:
    report = {"dependencies": [package("a"), package("b")]}
    assert verdict(report) == (["2 packages checked, 0 with known vulnerabilities"], CLEAN)


def test_audit_names_vulnerabilities_and_fixes() -> None:
    report = {
        "dependencies": [
            package("a", {"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}),
            package("b", {"id": "CVE-2", "fix_versions": []}),
            package("c"),
        ]
    }
    assert verdict(report) == (
        [
            "a 1.0: PYSEC-1, fixed in 1.1, 2.0",
            "b 1.0: CVE-2, not fixed in any version yet",
            "3 packages checked, 2 with known vulnerabilities",
        ],
        VULNERABLE,
    )


@pytest.mark.parametrize("report", [None, {"dependencies": []}, {"dependencies": [SKIPPED] * 3}])
def test_audit_without_any_lookup_fails(
    report: dict[str, Any] | None,
) -> None:
    assert verdict(report) == ([UNREACHED], UNKNOWN)


def test_audit_names_packages_it_could_not_look_up() -> None:
    lines, code = verdict({"dependencies": [package("a"), SKIPPED]})
    assert lines == [
        "s: unknown to the service",
        "1 packages checked, 0 with known vulnerabilities",
    ]
    assert code == UNKNOWN
    known = package("a", {"id": "PYSEC-1", "fix_versions": []})
    assert verdict({"dependencies": [known, SKIPPED]})[1] == VULNERABLE


def test_missing_or_truncated_report_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert main(str(report)) == UNKNOWN
    report.write_text('{"dependencies": [')
    assert main(str(report)) == UNKNOWN
    assert capsys.readouterr() == ("", f"{UNREACHED}\n" * 2)
    report.write_text(json.dumps({"dependencies": [package("a")]}))
    assert main(str(report)) == CLEAN
    assert capsys.readouterr().err == ""
