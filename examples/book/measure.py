"""Runs a command and measures what memory it takes for itself: the most resident memory that belongs to no file
(RssAnon in /proc/PID/status), looked at every 10 ms. Mapped inputs and outputs are files, so they do not count."""
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

RESIDENT = re.compile(rb"^RssAnon:\s+(\d+) kB$", re.MULTILINE)
PERIOD = 0.01  # seconds


def own_memory(pid: int) -> int:
    """Bytes; 0 once the process has ended."""
    try:
        found = RESIDENT.search(Path(f"/proc/{pid}/status").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) * 1024 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stdout", type=Path, required=True, help="where the command's output goes")
    parser.add_argument("--json", type=Path, required=True, help="where the measurements go")
    parser.add_argument("command", nargs="+", help="after --")
    arguments = parser.parse_args()
    most, started = 0, time.monotonic()
    with open(arguments.stdout, "wb") as output:
        process = subprocess.Popen(arguments.command, stdout=output)
        try:
            while process.poll() is None:
                most = max(most, own_memory(process.pid))
                time.sleep(PERIOD)
        except KeyboardInterrupt:  # which the command has received too
            return process.wait()
    measured = {"seconds": time.monotonic() - started, "peak_own_bytes": most}
    arguments.json.write_text(json.dumps(measured))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
