"""Each of pytest-xdist's workers keeps to one core.

llama.cpp's threads wait for one another by spinning: two workers with a thread on every core would slow each other tenfold. It is done
here, before anything counts the cores there are.
"""

import os

_WORKER = os.environ.get("PYTEST_XDIST_WORKER")

if _WORKER is not None and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(_WORKER.removeprefix("gw")) % len(cores)]})
