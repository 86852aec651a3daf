"""Modalities: every SOP class belongs to one, and a study asks for those that are known."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from client.imaging.dicom.header import IMAGE_CLASSES
from common.data.modality import MODALITIES, modality
from common.data.schema import Channel
from common.errors import UsageError
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
