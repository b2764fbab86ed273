"""Print what breaks a rule: `python -m lint [--count] [FILE|FOLDER …]`, with `tools` on the path.

The exit status is 1 if anything does. `--count` prints how often each phrase occurs instead of each place.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter

from . import prose, structure


def main() -> int:
    """Check everything, or the words of the named files alone; return the exit status."""
    parser = argparse.ArgumentParser(prog="lint", description=__doc__)
    parser.add_argument("--count", action="store_true", help="print how often each phrase occurs")
    parser.add_argument("paths", nargs="*", help="check the words of these files only")
    options = parser.parse_args()
    found = prose.check(options.paths) + ([] if options.paths else structure.check())
    if options.count:
        for message, times in Counter(finding.message.lower() for finding in found).most_common():
            print(f"{times:6} {message}")
    else:
        for finding in found:
            print(finding)
    if found:
        print(f"{len(found)} findings", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends the list quietly
    sys.exit(main())
