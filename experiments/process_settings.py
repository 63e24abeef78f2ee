"""Process settings that must be made before PyTorch is imported; scripts that train import this module first.

Idle OpenMP threads of PyTorch sleep soon instead of spinning, unless the environment chooses. Two processes that spin
on the same cores slow each other down. `genrekeras.runs.runner.start` makes the other settings.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
