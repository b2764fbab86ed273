"""`python -m subtitled.ray PARENT_PID`: the autoscaler process."""

from __future__ import annotations

import os
import sys

from subtitled.ray.autoscaler import main

if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stderr.flush()
    # Ray's threads may wait for a head that is gone.
    os._exit(status)
