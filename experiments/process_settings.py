"""Process settings that must be made before PyTorch is imported. Scripts that train models import this module first.

The settings let idle OpenMP threads of PyTorch sleep soon instead of spinning, because spinning threads slow down other
processes on the same cores. If the environment already has OMP_WAIT_POLICY or GOMP_SPINCOUNT, nothing is changed.
`genrekeras.runs.runner.start` makes the other settings of the process.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
