#!/usr/bin/env python3
"""Runs the C tests of a build folder, the Python tests, or both, and counts the single tests.

Both runners run even if the first fails, with as many tests at a time as there are cores. The last lines are one per runner and the total:
    ctest: 120 passed, 0 failed, 1 skipped
    pytest: 34 passed, 0 failed, 0 skipped
    154 passed, 0 failed, 1 skipped
The exit status is 1 if anything failed or nothing ran.
"""

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What cmocka prints for each test. A program may leave a line of its own unfinished before it, hence no anchor.
CMOCKA_LINE = re.compile(r"\[\s*(RUN|OK|FAILED|SKIPPED)\s*\] (.+)")


@dataclasses.dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other):
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count_cmocka(output):
    """Counts of one test program's output; None if it is not cmocka's. A test that began and did not end failed."""
    counts, running, began = Counts(), None, False
    for kind, name in CMOCKA_LINE.findall(output):
        name = name.strip()
        if kind == "RUN":
            counts.failed += running is not None
            running, began = name, True
        elif name == running:
            counts.passed += kind == "OK"
            counts.failed += kind == "FAILED"
            counts.skipped += kind == "SKIPPED"
            running = None
    counts.failed += running is not None
    return counts if began else None


def count_ctest_case(case):
    """Counts of one <testcase> of ctest's report."""
    status = case.get("status")
    skipped = case.find("skipped")
    if status == "disabled" or (skipped is not None and skipped.get("message", "").startswith("SKIP_")):
        return Counts(skipped=1)
    ok = status == "run"
    counts = count_cmocka(case.findtext("system-out") or "")
    if counts is None:
        return Counts(passed=int(ok), failed=int(not ok))
    if not ok and counts.failed == 0:  # a leak, a sanitizer's report, a failed set-up
        counts.failed = 1
    return counts


def run_ctest(build, arguments):
    report = build / "ctest.xml"
    report.unlink(missing_ok=True)
    subprocess.run(
        ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error", "--parallel", str(os.cpu_count()),
         "--output-junit", str(report),
         "--test-output-size-passed", "100000000", "--test-output-size-failed", "100000000", *arguments],
        check=False,
    )
    if not report.exists():
        return Counts(failed=1)
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return sum((count_ctest_case(case) for case in cases), Counts())


def run_pytest(build, paths):
    report = build / "pytest.xml"
    report.unlink(missing_ok=True)
    environment = dict(os.environ, DA_CLI=str(build / "bin" / "dilated-attention"), DA_BUILD_DIR=str(build),
                       PYTHONPATH=str(build / "python"), PYTHONDONTWRITEBYTECODE="1")
    status = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "-n", "auto", f"--junitxml={report}", *paths],
        check=False, cwd=ROOT, env=environment,
    ).returncode
    if not report.exists():
        return Counts(failed=1)
    counts = Counts()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        total, failed, skipped = int(suite.get("tests")), 0, int(suite.get("skipped"))
        failed = int(suite.get("failures")) + int(suite.get("errors"))
        counts += Counts(total - failed - skipped, failed, skipped)
    if status != 0 and counts.failed == 0:  # no test collected, or pytest itself failed
        counts.failed = 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="build folder")
    parser.add_argument("--no-ctest", action="store_true", help="leave out the C tests")
    parser.add_argument("--ctest", metavar="ARGUMENT", action="append", default=[], help="an argument for ctest")
    parser.add_argument("--pytest", metavar="PATH", action="append", default=[], help="Python tests to run")
    parser.add_argument("--tally", type=Path, help="file to append 'passed failed skipped' to")
    arguments = parser.parse_args()
    build = arguments.build.resolve()

    results = {}
    if not arguments.no_ctest:
        results["ctest"] = run_ctest(build, arguments.ctest)
    if arguments.pytest:
        results["pytest"] = run_pytest(build, arguments.pytest)
    total = sum(results.values(), Counts())

    print()
    for name, counts in results.items():
        print(f"{name}: {counts}")
    print(total, flush=True)
    if arguments.tally:
        with arguments.tally.open("a", encoding="utf-8") as tally:
            tally.write(f"{total.passed} {total.failed} {total.skipped}\n")
    return int(total.failed > 0 or total.passed == 0)


if __name__ == "__main__":
    sys.exit(main())
