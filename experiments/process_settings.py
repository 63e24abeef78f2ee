"""Settings of the process of an experiment; each script imports this module first.

PyTorch reads the variable when it is imported. Without it, idle threads spin, and two runs on the same cores slow each
other down; see `genrekeras.utils.process`, which applies the other settings.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
