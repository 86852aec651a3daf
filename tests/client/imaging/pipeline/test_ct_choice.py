"""Which CT of a patient is taken: by purpose, phase and kernel in the words of vendors and
technicians; and the account names the rule that decided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.imaging.dicom import ct_phase
from client.imaging.geometry.volumes import Frame, Header, Series, name_hash
from client.imaging.pipeline.header_index import _without_free_text
from client.imaging.selection.identifiers import Keys
from client.imaging.selection.series_selection import Selection, choose
from common.study.image_sections import ImagesSpec
from tests.client.imaging.pipeline.exams import CT


def scan(
    uid: str,
    slices: int = 30,
    *,
    kernel: str = "",
    thickness: float = 3.0,
    reach_mm: float = 300.0,
    **more: Any,
) -> Series:
    """A CT series as its headers have it; `more`: fields of the header."""
    study = more.pop("study", "1")
    traits = (("ConvolutionKernel", kernel),) if kernel else ()
    declared = more.get("declared_modality", "CT")
    headers = tuple(
        Header(
            f"/i/P1/{uid}/{k}.dcm", "dicom", "CT" if declared == "CT" else "other",
            **{
                "called": tuple(name_hash(t) for t in (more.get("description", ""),) if t),
                "declared_modality": declared, "patient": "P1", "study": study,
                "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
                "frames": (Frame((0.0, 0.0, reach_mm * k / slices), thickness=thickness, traits=traits),), **more,
            },
        )
        for k in range(slices)
    )  # fmt: skip
    return Series(
        uid, "dicom", headers[0].modality, "P1", study, "9", headers[0].description, "ACME",
        tuple(h.path for h in headers), None, channel="ct" if declared == "CT" else "",
        slices=tuple((k, 0) for k in range(slices)), headers=headers,
    )  # fmt: skip


def chosen(*series: Series, **spec: Any) -> tuple[str, Selection]:
    """`spec`: what the mapping says in `[images]`."""
    keys = Keys(ImagesSpec(**spec), Path("/i"))
    headers = [h for s in series for h in s.headers]
    selection = choose(series, headers, [], keys, CT, {"P1"})
    case = selection.cases.get("P1")
    return (case.channels["ct"].uid if case else ""), selection


def told(selection: Selection) -> str:
    return " | ".join(counted for counted, _ in selection.remarks["P1"])


PHASES = [
    # native, arterial, portal venous
    ("nativ 5.0 B30f", "Abdomen arteriell 5.0 B30f", "Abdomen portalvenös 5.0 B30f"),
    ("ABD W/O", "ABD ART PHASE", "ABD PORTAL VENOUS"),
    ("Abdomen sans injection", "Abdomen temps artériel", "Abdomen temps portal"),
    ("Addome basale", "Addome arteriosa", "Addome venosa"),
    ("Abdomen sin contraste", "Abdomen fase arterial", "Abdomen fase portal"),
    ("Abdomen blanco", "Abdomen arterieel", "Abdomen portoveneus"),
    ("NON-CON", "LATE ARTERIAL", "PV 70s"),
    ("Liver unenhanced", "Liver early art.", "Liver_ven_3mm"),
    ("ohne KM", "CTA Abdomen", "Abd. ven. Phase"),
    ("pre contrast 2.0", "HAP 2.0", "PVP 2.0"),
]


@pytest.mark.parametrize("words", PHASES)
@pytest.mark.parametrize("turn", range(3))
def test_the_portal_venous_phase_by_description(words: tuple[str, ...], turn: int) -> None:
    uids = ["a", "b", "c"][turn:] + ["a", "b", "c"][:turn]
    uid, selection = chosen(*(scan(u, description=w) for u, w in zip(uids, words, strict=True)))
    assert uid == uids[2]
    assert "the one of the preferred phase (portal venous) is used" in told(selection)
    assert "most slices" not in told(selection)


@pytest.mark.parametrize("tag", ["PORTAL_VENOUS", "VENOUS", "portal venous", "Portal"])
def test_the_phase_by_its_tag(tag: str) -> None:
    uid, _ = chosen(
        scan("a", contrast_phase="ARTERIAL"),
        scan("b", contrast_phase=tag),
        scan("c", contrast_phase="PRE_CONTRAST", slices=90),
    )
    assert uid == "b"


def test_a_phase_that_nothing_tells_is_said() -> None:
    uid, selection = chosen(scan("b"), scan("a"), scan("c"))
    assert uid == "a"
    assert "the first by uid or path, since nothing else tells them apart" in told(selection)
    assert "most slices" not in told(selection)
    assert chosen(scan("a"), scan("b", contrast="Ultravist 370"))[0] == "b"
    assert chosen(scan("a"), scan("b", slices=31))[0] == "b"
    assert "most slices" in told(chosen(scan("a"), scan("b", slices=31))[1])
    assert "thinnest" in told(chosen(scan("a"), scan("b", thickness=1.0))[1])


KERNELS = [
    # sharp, soft
    ("B70f", "B30f"), ("I70f\\3", "I31f\\3"), ("Br64d\\3", "Br40d\\3"), ("Bl57f", "Bf37f"),
    ("LUNG", "STANDARD"), ("BONEPLUS", "SOFT"), ("EDGE", "STANDARD"), ("BONE", "CHST"),
    ("FC52", "FC13"), ("FC86", "FC08-H"), ("FC30", "FC18"), ("YA", "B"), ("L", "C"), ("D", "A"),
    ("B_SHARP_C", "B_SOFT_B"), ("LUNG", "SOFT_TISSUE"), ("", "B40s"), ("Hr60", ""),
]  # fmt: skip


@pytest.mark.parametrize(("sharp", "soft"), KERNELS)
@pytest.mark.parametrize("first", [True, False])
def test_the_soft_kernel(sharp: str, soft: str, first: bool) -> None:
    uids = ("a", "b") if first else ("b", "a")
    # the thin series is the one for lung or bone
    uid, selection = chosen(scan(uids[0], 60, kernel=sharp), scan(uids[1], 30, kernel=soft))
    assert uid == uids[1]
    assert "the one with the softer kernel is used" in told(selection)


def test_the_kernel_of_a_description() -> None:
    assert (
        chosen(scan("a", description="Thorax Lunge 1.0"), scan("b", description="Weichteil"))[0]
        == "b"
    )
    assert chosen(scan("a", description="Petrous bone"), scan("b", description="3mm"))[0] == "b"


PET = [
    {"description": "CT AC 3.0"}, {"description": "CTAC"}, {"description": "AC CT WB 4.0 HD_FoV"},
    {"description": "Low Dose CT"}, {"description": "CT Niedrigdosis"},
    {"description": "PET WB"}, {"description": "LD-CT"},
]  # fmt: skip


@pytest.mark.parametrize("low", PET)
def test_a_low_dose_ct_by_its_description(low: dict[str, str]) -> None:
    uid, selection = chosen(scan("a", 200, reach_mm=1000, **low), scan("b", 60))
    assert uid == "b"
    assert "the diagnostic one is used" in told(selection)


TODAY = {"study_date": "2020-03-04"}


@pytest.mark.parametrize("diagnostic", [{"contrast": "Iomeprol"}, {"description": "venous"}])
def test_a_ct_beside_a_pet_comes_last(diagnostic: dict[str, str]) -> None:
    pet = scan("p", 300, declared_modality="PT")
    low = scan("a", 200, reach_mm=1000)
    assert chosen(pet, low, scan("b", 60, **diagnostic))[0] == "b"
    low, high = scan("a", 200, reach_mm=1000, **TODAY), scan("b", 60, study="2", **TODAY)
    uid, selection = chosen(pet, low, replace(high, frame_of_reference="8"))
    assert uid == "b"
    assert "the one with a diagnostic CT" in told(selection)
    assert chosen(pet, scan("a", 200))[0] == "a", "better than none"


@pytest.mark.parametrize("words", ["Iodine map", "SmartPrep", "Monitoring", "VNC", "CaSc", "MIP"])
def test_what_has_another_purpose_comes_last(words: str) -> None:
    assert chosen(scan("a", 90, description=words), scan("b", 30))[0] == "b"


def test_only_a_localizer() -> None:
    by_type = scan("a", 2, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    by_words = scan("a", 1, description="Topogramm 0.6 T20s")
    for localizer in (by_type, by_words):
        uid, selection = chosen(localizer)
        assert uid == ""
        ((code, text),) = selection.rejections["P1"]
        assert code == "D06"
        assert "no usable CT: only a localizer" in text
    assert chosen(by_type, scan("b"))[0] == "b"
    few = chosen(by_type, scan("b", 3))[1].rejections["P1"]
    assert "localizer" not in few[0][1]


WORDS = [w for row in PHASES for text in row for w in text.split()] + [
    "low", "dose", "LD", "pet", "Lunge", "soft", "late", "with", "contrast", "Doe", "+C", "VNC",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(WORDS), max_size=5),
    st.sampled_from([" ", "_", "-"]),
    st.sampled_from(["", "ARTERIAL", "portal venous", "venös Doe"]),
)
def test_what_decides_is_remembered(words: list[str], between: str, phase: str) -> None:
    header = Header(
        "/x", "dicom", "CT", description=between.join(words), contrast_phase=phase,
        contrast="Gadovist",
    )  # fmt: skip
    kept = _without_free_text(header)
    for of in (ct_phase.phase, ct_phase.kernel, ct_phase.purpose):
        assert of(kept) == of(header)
    assert "Doe" not in kept.description + kept.contrast_phase


def test_levels_still_come_first() -> None:
    derived = scan("a", 90, image_type=("DERIVED", "SECONDARY"), description="portal venous")
    uid, selection = chosen(derived, scan("b", 30))
    assert uid == "b"
    assert "least derived" in told(selection)
    assert np.all([s.uid != "a" for s in selection.cases["P1"].channels.values()])


# ---- what the mapping names ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Abd  ART 2.0", "abd art 2.0", "b"])
def test_the_series_that_the_mapping_names_is_taken_before_all_others(name: str) -> None:
    """By what it is called, whatever case and blanks, or by its UID."""
    venous, arterial = scan("a", 90, description="PVP"), scan("b", description="Abd ART 2.0")
    assert chosen(venous, arterial)[0] == "a"
    uid, selection = chosen(venous, arterial, series={"ct": (name,)})
    assert uid == "b"
    assert "the one that [images] series names is used" in told(selection)
    # on another day's frame of reference, too
    elsewhere = replace(arterial, frame_of_reference="8")
    assert chosen(venous, elsewhere, series={"ct": (name,)})[0] == "b"
    assert chosen(venous, arterial, series={"ct": ("ART",)})[0] == "a", "as a whole"


def test_a_series_that_the_mapping_does_not_want_is_not_looked_at() -> None:
    first, second = scan("a", 90, description="Thorax  Abdomen"), scan("b", description="Abdomen")
    uid, selection = chosen(first, second, not_series=("thorax abdomen",))
    assert uid == "b"
    assert "a series that not_series names is not looked at" in told(selection)
    uid, selection = chosen(first, not_series=("a",))
    assert uid == ""
    ((code, text),) = selection.rejections["P1"]
    assert code == "D06"
    assert "there are 1 CT; 1 of them are named by not_series" in text


@given(st.permutations(["portal venous", "enhanced", "delayed", "arterial", "native"]))
def test_phases_are_preferred_as_the_mapping_says(order: list[str]) -> None:
    words = {"portal venous": "PVP", "enhanced": "KM", "delayed": "delay 5 min",
             "arterial": "HAP", "native": "nativ"}  # fmt: skip
    scans = [scan(k, description=v) for k, v in words.items()]
    assert chosen(*scans, phases=tuple(order))[0] == order[0]
    assert chosen(*scans, phases=tuple(order[:1]))[0] == order[0]
    assert chosen(*scans)[0] == "portal venous"


def test_kernels_are_preferred_as_the_mapping_says() -> None:
    soft, sharp = scan("a", kernel="B30f"), scan("b", kernel="B70f")
    assert chosen(soft, sharp)[0] == "a"
    assert chosen(soft, sharp, kernels=("sharp",))[0] == "b"


def test_one_name_means_one_thing() -> None:
    spec = ImagesSpec(series={"ct": ("Abd",)}, not_series=("ABD ", "x"))
    ((key, said),) = spec.faults()
    assert (key, "'abd'" in said) == ("series", True)


def test_names_of_series_are_kept_as_hashes() -> None:
    """Somebody may have typed the patient's name."""
    header = Header("/x", "dicom", "CT", description="Doe ABD", called=(name_hash("Doe ABD"),))
    kept = _without_free_text(header)
    assert kept.called == header.called
    assert "doe" not in str(kept).casefold()
