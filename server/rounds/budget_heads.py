"""Budget heads, the last entries of the sites' budget chains, as last told: every run gives them
back, so that a station which is an old copy is found out.

One file for all runs beside each other, by the sites' public keys; the ledger of each run has them
too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from common.errors import RunError
from server.ledger import state_store

NAME = "budgets.json"


class Accounts:
    def __init__(self, path: Path | None, keys: Mapping[str, str]) -> None:
        """keys: site -> public key. Without a path they are remembered for one run."""
        self._path, self._keys = path, keys
        self._heads = _read(path) if path else {}

    def head(self, site: str) -> str:
        """'' where the site has told none, in this run or one beside it."""
        if self._path and self._keys[site] not in self._heads:
            self._heads = {**_read(self._path), **self._heads}
        return self._heads.get(self._keys[site], "")

    def record(self, heads: Mapping[str, str]) -> None:
        """What sites have said now; written to disk before it is given back to them."""
        new = {self._keys[site]: head for site, head in heads.items() if head}
        if new.items() - self._heads.items():
            # another run may have written since
            self._heads = {**(_read(self._path) if self._path else self._heads), **new}
            if self._path:
                state_store.write(
                    self._path, json.dumps(self._heads, indent=1, sort_keys=True).encode()
                )


def _read(path: Path) -> dict[str, str]:
    try:
        heads = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(heads, dict) or not all(
            re.fullmatch(r"[0-9a-f]{64}", str(v)) for kv in heads.items() for v in kv
        ):
            raise ValueError("not an object of keys and hashes")
        return heads
    except (OSError, ValueError) as error:
        raise RunError(
            "S02",
            f"'{path}' is damaged ({error}); restore it from a backup: it says which budgets "
            "sites have told",
        ) from error
