"""Beeswarm plots: the heads' own values, the patients that have a table row, for their owner
alone."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from client.local_model import contributions
from client.local_model.model_folder import Model
from common.data.cohort import Cohort
from common.data.schema import Floats
from common.federated.learner import hyper_of
from common.learners.boosting import Boosting
from common.learners.logistic import Logistic
from common.study.study import Study, Task
from common.types import State
from tests import synthetic
from tests.client.local_model.test_finetune import nobodys, trained

HEADS = (Logistic(), Boosting(trees=4))


def model(cohort: Cohort, state: State) -> Model:
    time = cohort.schema.times[-1]
    told = {"learners": {h.name: hyper_of(h) for h in HEADS}}
    return Model(
        Study("t", "?", cohort.schema, {time: Task(time)}),
        time,
        state,
        HEADS,
        "",
        {},
        told,
        nobodys(Path()),
    )


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
)
def test_a_picture_a_head_for_the_owner_alone(tmp_path: Path) -> None:
    cohort = synthetic.cohort(80)
    names = contributions.write(model(cohort, trained([cohort], HEADS)), cohort, tmp_path / "out")
    assert names == ["shap-logistic.png", "shap-boosting.png"]
    for name in names:
        path = tmp_path / "out" / name
        assert path.read_bytes().startswith(b"\x89PNG")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("classes", [2, 3])
def test_what_is_plotted_is_what_the_heads_say(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = synthetic.cohort(90, classes=classes)
    cohort.values[3] = np.nan  # nothing is known of this patient
    state = trained([cohort], HEADS)
    plotted: dict[str, Floats] = {}

    def plot(title: str, values: Floats, rows: Cohort) -> bytes:
        assert cohort.ids[3] not in rows.ids
        plotted[title] = values
        return title.encode()

    monkeypatch.setattr(contributions, "_plot", plot)
    made = contributions.beeswarms(model(cohort, state), cohort, HEADS)
    rows = cohort.where(cohort.tabled)
    for head in HEADS:
        values = head.explain(state, rows)
        mine = {title: v for title, v in plotted.items() if title.startswith(head.name)}
        assert (
            len(mine)
            == values.shape[2]
            == sum(name.startswith(f"shap-{head.name}") for name in made)
        )
        last = mine[f"{head.name}: log-odds of {cohort.schema.label.classes[-1]}"]
        np.testing.assert_array_equal(last, values[:, :, -1])
