"""What ``make audit`` says of the report that pip-audit has written.

pip-audit ends well when it could look nothing up, and with a traceback when there is no network. An
audit that has checked nothing must not look like one that has found nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

#: Exit codes: nothing is known against any package; something is; not all could be looked up.
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2

UNREACHED = (
    "make audit: the advisory service could not be reached, and nothing was checked; "
    "try again where there is a network"
)


def verdict(report: dict[str, Any] | None) -> tuple[list[str], int]:
    """Return lines for people, and the exit code.

    Args:
        report: what ``pip-audit --format json`` has written; None if it has written nothing.
    """
    packages = report["dependencies"] if report else []
    skipped = [each for each in packages if "skip_reason" in each]
    if len(skipped) == len(packages):
        return [UNREACHED], UNKNOWN
    lines = [
        f"{each['name']} {each['version']}: {found['id']}, {_fixed_in(found)}"
        for each in packages
        for found in each.get("vulns", ())
    ]
    code = VULNERABLE if lines else CLEAN
    if skipped:
        lines += [f"{each['name']}: {each['skip_reason']}" for each in skipped]
        code = code or UNKNOWN
    checked = len(packages) - len(skipped)
    known = sum(bool(each.get("vulns")) for each in packages)
    lines.append(f"{checked} packages checked, {known} with known vulnerabilities")
    return lines, code


def _fixed_in(found: dict[str, Any]) -> str:
    versions = ", ".join(found.get("fix_versions") or [])
    return f"fixed in {versions}" if versions else "not fixed in any version yet"


def main(path: str) -> int:
    """Print the verdict on the report in a file, which may be missing; return the exit code."""
    try:
        report = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        report = None
    lines, code = verdict(report)
    print(*lines, sep="\n", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
