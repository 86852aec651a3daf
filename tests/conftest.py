"""Property tests draw the same examples in every run; `HYPOTHESIS_PROFILE=explore` looks for new
ones.

Processes that tests start take the checkout's packages, wherever they are started, and not what was
installed of them.
"""

import os

from hypothesis import settings

from tests.paths import ROOT

os.environ["PYTHONPATH"] = str(ROOT)

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
