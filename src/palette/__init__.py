"""palette: how few adapters serve all our users, and what does each user lose?"""

import os

# Read when torch is loaded. Threads that spin while they wait are a tenth faster on an idle
# machine, and five to ten times slower beside anything else that runs (docs/log.md).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
