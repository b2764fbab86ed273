"""What holds for all tests. That this file is here puts `tests/` on the path: `import media` works."""

from __future__ import annotations

from hypothesis import settings

# The same examples each time, and no verdict that hangs on the machine's speed.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")
