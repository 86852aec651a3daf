from __future__ import annotations

import pytest

from tests.guards.drill import Done, command, people


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One undisturbed run with two heads and both evaluations."""
    done = command(
        tmp_path_factory.mktemp("town"),
        people(),
        "--learners",
        "logistic,boosting",
        "--set",
        "boosting.trees=4",
        "--unknown-label",
        "sensitivity",
    )
    assert done.status == 0, done.said
    return done
