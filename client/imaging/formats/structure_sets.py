"""RT Structure Sets (contours of radiotherapy and radiosurgery) to a Mask on the grid of the image
that they were drawn on.

Regions are told by their names, as the segments of a SEG are. Contours lie where their millimetres
say: the slice that one names is compared with that, and a difference is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from client.imaging.dicom.rt_struct import Roi, read_rois
from client.imaging.dicom.seg_reference import astray, drawn_on
from client.imaging.formats.segmentations import check_reference, matched, refusing
from client.imaging.geometry import contours
from client.imaging.geometry.straightening import on_nearest
from client.imaging.geometry.volumes import Geometry, Mask, Series
from common.errors import Fault, raise_faults

SEND = "Send the structure set of this very series, or the series that it was drawn on"


def read_structure_set(
    series: Series, onto: Geometry, regions: Mapping[str, Sequence[str]], image: Series
) -> Mask:
    """An RT Structure Set on the grid `onto` of the series `image`. `regions`: region i (bit i of
    the mask) -> regular expressions for the names of its ROIs, which match as a whole.

    A region is marked where one of its ROIs has a closed contour: a name without any (a template's)
    says nothing. Raises DataError: D00 for a broken file, D07 when it belongs elsewhere, or lies in
    no plane of the grid, or beyond it.
    """
    if len(regions) > 8:
        raise AssertionError("a mask has 8 bits")
    path = series.files[0]
    check_reference(series, image)
    with refusing(path):
        rois = read_rois(path)
        regions_of, unmatched = matched({n: roi.name for n, roi in enumerate(rois, 1)}, regions)
        own = drawn_on(series, image)
        out, marked, notes = np.zeros(onto.shape, np.uint8), [False] * len(regions), []
        for number, roi in enumerate(rois, 1):
            if not regions_of[number]:
                continue
            notes += _remarks(roi, image)
            if not roi.contours:
                continue
            _check_frame(path, roi, image)
            made = _filled(path, roi, onto, thick=not (own and _on_slices_of(roi, image)))
            notes += [n for n in made.notes if image.straight is None or n != contours.SKIPPED]
            for region in regions_of[number]:
                marked[region] = True
                out[made.inside] |= np.uint8(1 << region)
        if own and image.straight is not None:
            out = on_nearest(out, image.straight)
        if not own:
            notes.append("drawn on another series of the same frame of reference")
        if unmatched:
            notes.append(f"segments of no region, left out: {', '.join(unmatched)}")
    return Mask(out, tuple(marked), tuple(dict.fromkeys(notes)))


def _filled(path: str, roi: Roi, onto: Geometry, *, thick: bool) -> contours.Filled:
    try:
        return contours.filled([c.points for c in roi.contours], onto, thick=thick)
    except ValueError as error:
        raise_faults([Fault("D07", path, f"region '{roi.name}': {error}", SEND)])
        raise AssertionError from error


def _on_slices_of(roi: Roi, image: Series) -> bool:
    """Whether its contours name slices of the image, or none: an object that refers to several
    series has each region on slices of one of them."""
    named = {c.image for c in roi.contours if c.image}
    return not named or not named.isdisjoint(h.sop for h in image.headers)


def _check_frame(path: str, roi: Roi, image: Series) -> None:
    """D07 where a region says of itself that it lies in another frame of reference."""
    if roi.frame_of_reference and roi.frame_of_reference != (
        image.frame_of_reference or roi.frame_of_reference
    ):
        what = (
            f"region '{roi.name}' lies in frame of reference {roi.frame_of_reference}, not in the "
            f"image's {image.frame_of_reference}"
        )
        raise_faults([Fault("D07", path, what, SEND)])


def _remarks(roi: Roi, image: Series) -> list[str]:
    notes = []
    if roi.others:
        notes.append(
            "contours that are points or open lines enclose nothing and are left out: "
            f"{roi.others} of '{roi.name}'"
        )
    if not roi.contours:
        notes.append(f"a region has a name and no closed contour: '{roi.name}'")
    places = [(c.image, c.points.mean(axis=0)) for c in roi.contours]
    if count := astray(places, image):
        notes.append(
            "contours name a slice that lies elsewhere; their coordinates are believed: "
            f"{count} of '{roi.name}'"
        )
    return notes
