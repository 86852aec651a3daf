"""Requests: a run begins once, as it was asked for, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FederationError
from server.config.run_config import Run
from server.coordinator import requests


def test_a_request_is_begun_once_and_as_it_was_asked_for(tmp_path: Path) -> None:
    run = Run(learners="logistic", out="/runs/a", keys="/kit", noise=2.5, evaluations="holdout")
    name = requests.ask(tmp_path, run)
    assert requests.take(tmp_path, name) == run
    with pytest.raises(FederationError, match="not waiting") as caught:
        requests.take(tmp_path, name)
    assert caught.value.code == "R12"
    withdrawn = requests.ask(tmp_path, run)
    requests.withdraw(tmp_path, withdrawn)
    with pytest.raises(FederationError, match="not waiting"):
        requests.take(tmp_path, withdrawn)
    assert list((tmp_path / requests.FOLDER).iterdir()) == []


@given(st.one_of(st.none(), st.integers(), st.text(), st.sampled_from(["", "../x", "a" * 32])))
def test_no_name_but_a_requests_begins_anything(
    tmp_path_factory: pytest.TempPathFactory, name: object
) -> None:
    home = tmp_path_factory.mktemp("home")
    asked = requests.ask(home, Run())
    (home / "x.json").write_text("{}")
    with pytest.raises(FederationError) as caught:
        requests.take(home, name)
    assert caught.value.code == "R12"
    assert requests.take(home, asked) == Run()
