"""Modalities: every SOP class belongs to one, and a study asks for those that are known."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

from client.imaging.dicom.header import IMAGE_CLASSES
from common.data.modality import MODALITIES, modality
from common.data.schema import Channel, Imaging
from common.errors import UsageError
from tests.paths import ROOT
from tests.pictures import imaging, schema


def test_every_sop_class_belongs_to_one_modality() -> None:
    classes = Counter(c for m in MODALITIES.values() for c in m.sop_classes)
    assert set(classes.values()) == {1}
    assert {IMAGE_CLASSES[c] for c in classes} == set(MODALITIES)


def test_of_one_that_no_study_asks_for_nothing_is_known() -> None:
    assert not modality("SEG").hounsfield
    assert not modality("SEG").channel


def test_a_channel_of_an_unknown_modality_is_a_fault_of_the_study() -> None:
    channels = (Channel("pet", "PT"),)
    with pytest.raises(UsageError, match="'pet' is of modality 'PT', known are CT, MR"):
        schema(2, dataclasses.replace(imaging(), channels=channels))


@pytest.mark.parametrize(
    ("modalities", "window", "told"),
    [
        (("CT",), None, "images of CT need a window, given is None"),
        (("MR",), (-160, 240), "images of MR need no window, given is .-160, 240."),
        (("CT", "MR"), (-160, 240), "are of CT and MR"),
        (("MR", "CT"), None, "are of CT and MR"),
    ],
)
def test_how_a_study_prepares_its_images_is_its_modalitys(
    modalities: tuple[str, ...], window: tuple[float, float] | None, told: str
) -> None:
    channels = tuple(Channel(f"c{i}", m) for i, m in enumerate(modalities))
    with pytest.raises(UsageError, match=told) as caught:
        schema(2, dataclasses.replace(imaging(), channels=channels, window=window))
    assert caught.value.code == "C03"


def test_what_a_modality_says_of_prepared_values() -> None:
    """Whoever reads an old cache, or an exported network, counts on them."""
    ct = Imaging((Channel("ct", "CT"),), window=(-160, 240)).modality
    mr = imaging(4).modality
    assert (ct.unit, ct.outside, ct.span, ct.values) == (2**-14, -1, (-1, 1), "hounsfield")
    assert (mr.unit, mr.outside, mr.span, mr.values) == (2**-12, 0, (-5, 5), "magnitude")
    assert (ct.hounsfield, ct.sequences) == (True, False)
    assert (mr.hounsfield, mr.sequences) == (False, True)


INDIRECT = re.compile(
    r"window is (not )?None|\b(if|and|or|not) (\w+\.)*window\b|[!=]= ?[\"'](CT|MR)[\"']"
)
"""Another way to ask which modality it is than its entry."""


def test_who_asks_for_a_modality_asks_its_entry() -> None:
    asking = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("common", "client", "server", "simulation", "deploy")
        for path in sorted(Path(ROOT / package).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if INDIRECT.search(line)
    ]
    # where the window itself is checked
    own = [line for line in asking if line.startswith("common/data/schema.py: ")]
    assert [line for line in asking if line not in own] == []
    assert len(own) == 3
