"""What a report says of a masked run: over which sites its sums were."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from server.ledger.ledger import NAME, Ledger
from server.report.content.federated_sums import masked

SITES = dict.fromkeys("ABCDE", "contributed")


@pytest.mark.parametrize(
    ("fewest", "told"),
    [
        (0, None),
        (5, "each sum was over all 5 sites, and no fewer"),
        (3, "fewer than the 5, down to 3 (dropouts = continue)"),
    ],
)
def test_a_masked_run_says_over_which_sites_its_sums_were(
    tmp_path: Path, fewest: int, told: str | None
) -> None:
    with closing(Ledger(tmp_path / NAME)) as ledger:
        ledger.append("open", time=0.0)
        for _ in range(2):
            ledger.append("exchange", sites=SITES, fewest=fewest)
    alarms = masked(tmp_path)
    assert len(alarms) == (told is not None)
    assert all(told in a for a in alarms if told)


def test_a_ledger_of_an_older_version_has_no_such_number(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / NAME)) as ledger:
        ledger.append("exchange", sites=SITES)
    assert masked(tmp_path) == []
