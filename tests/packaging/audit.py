"""Judge the report of pip-audit for ``make audit``.

pip-audit succeeds if it could look nothing up. An audit that checked nothing must not look like one
that found nothing.
"""

import json
import sys
from pathlib import Path
from typing import Any

#: Exit codes: no known vulnerability; some; some packages were not checked.
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2

UNREACHED = (
    "make audit: the advisory service could not be reached, and nothing was checked; "
    "try again where there is a network"
)


def verdict(report: dict[str, Any] | None) -> tuple[list[str], int]:
    """Return the lines to print, and the exit code.

    Args:
        report: the output of ``pip-audit --format json``, or None without output.
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
    """Print the verdict on a report file, which may be missing; return the exit code."""
    try:
        report = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        report = None
    lines, code = verdict(report)
    print(*lines, sep="\n", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
