"""Property tests draw the same examples in every run; `HYPOTHESIS_PROFILE=explore` looks for new
ones.

Processes that tests start take the checkout's packages, wherever they are started, and not what was
installed of them.

A suite that a shell has put in the background has SIGINT ignored, and so would the processes that
tests start and interrupt: here it is what a terminal gives.
"""

import os
import signal

from hypothesis import settings

from tests.paths import ROOT

os.environ["PYTHONPATH"] = str(ROOT)
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("same", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
