"""Where the checkout lies, and where real tables and images are looked for."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("FEDMETS_DATA", ROOT.parent / "shared" / "data"))
