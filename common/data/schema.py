"""Schema: what a hospital must hold to take part in a study. Numbers with units and bounds, choices
with vocabularies, a label.

Everything that fixes the shape of a model (columns, their order, their bounds) comes from the
Schema, which is public, and never from data: two sites with equal schema hashes build the same
matrix whatever their patients look like.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.data.modality import MODALITIES, Modality
from common.data.modality import modality as modality_of
from common.errors import UsageError

_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Number:
    """A measured quantity. `low` and `high` are physical bounds in `unit`: a value outside is a
    fault, not an outlier."""

    name: str
    unit: str
    low: float
    high: float
    available_at: str
    scale: Literal["linear", "log"] = "linear"
    """`log`: models and histogram grids work on log(1 + x - low), so that a skewed marker keeps its
    low range."""
    title: str = ""


@dataclass(frozen=True)
class Choice:
    """One of a closed vocabulary. Unordered choices become one 0/1 column a value but the first
    (the reference)."""

    name: str
    values: tuple[str, ...]
    available_at: str
    ordered: bool = False
    """True: one column holding the rank 0 .. len(values) - 1."""
    title: str = ""


Feature = Number | Choice


@dataclass(frozen=True)
class Label:
    """What is predicted. `classes[0]` is the reference; for two classes, `classes[1]` is the
    event."""

    name: str
    classes: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Survival:
    """A follow-up time and an event, described by Kaplan-Meier curves; an outcome, never an
    input."""

    name: str
    unit: str
    horizon: float
    """The last time shown, in `unit`."""
    intervals: int = 60


@dataclass(frozen=True)
class Channel:
    """One image sequence: a network's input channel."""

    name: str
    modality: str
    """One of `common.data.modality.MODALITIES`."""
    title: str = ""


@dataclass(frozen=True)
class Imaging:
    """What images a study looks at, and how they are prepared: public, so that no statistic need
    cross a wall for it.

    Axes are (z, y, x), growing towards the patient's head, back and left; lengths are in mm.
    """

    channels: tuple[Channel, ...]
    regions: tuple[str, ...] = ()
    """What an expert may have outlined; region i is bit i of a mask."""
    organ: str = ""
    """The region whose box (and `margin_mm`) a volume is cut to, where it is outlined; empty: the
    body, or the brain."""
    lesion: tuple[str, ...] = ()
    """The regions that together are a lesion: crops are centred on its largest connected parts."""
    window: tuple[float, float] | None = None
    """Of a modality in Hounsfield units: clipped to it and mapped to [-1, 1]. None for the others:
    0.5 to 99.5 percentile inside the brain, z-score, clipped to +-5."""
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of a prepared volume; a coarser file keeps its own spacing, for interpolation adds
    nothing."""
    margin_mm: float = 10.0
    crop_mm: tuple[float, float, float] = (48.0, 48.0, 48.0)
    """Edges of a lesion's crop."""
    crops: int = 3
    """At most so many lesions a case, the largest."""
    coarse: tuple[int, int, int] = (32, 64, 64)
    """Voxels of the whole field of view as the segmentation sees it."""
    body: tuple[str, ...] = ()
    """Words of DICOM's BodyPartExamined that name what is looked at; a series of another part is
    not preferred to any."""

    @property
    def modality(self) -> Modality:
        """The one that all channels are of."""
        return modality_of(self.channels[0].modality)

    @property
    def window_hu(self) -> tuple[float, float]:
        """The window, of a modality in Hounsfield units."""
        assert self.window is not None
        return self.window

    def bits(self, regions: tuple[str, ...]) -> int:
        """The mask bits of `regions` together."""
        return sum(1 << self.regions.index(r) for r in regions)


@dataclass(frozen=True)
class Column:
    """One column of the design matrix."""

    name: str
    feature: Feature
    level: int | None
    """The vocabulary index that a 0/1 column marks; None for a number or an ordered choice."""
    low: float
    high: float
    scale: Literal["linear", "log"]

    @property
    def unit(self) -> str:
        if self.level is not None:
            return "0/1"
        return self.feature.unit if isinstance(self.feature, Number) else "rank"

    def to_model(self, x: Floats) -> Floats:
        """Natural values to the scale on which linear models and histogram grids work; clipped to
        the bounds, NaN kept."""
        clipped = np.clip(x, self.low, self.high)
        return np.log1p(clipped - self.low) if self.scale == "log" else clipped

    def to_natural(self, t: Floats) -> Floats:
        """The inverse of `to_model` within the bounds."""
        return np.expm1(t) + self.low if self.scale == "log" else t

    @property
    def span(self) -> tuple[float, float]:
        """The bounds on the model scale."""
        ends = self.to_model(np.array([self.low, self.high]))
        return float(ends[0]), float(ends[1])


@dataclass(frozen=True)
class Schema:
    """`times` are the study's moments in order (earliest first); each feature names the one at
    which it becomes available."""

    name: str
    features: tuple[Feature, ...]
    label: Label
    times: tuple[str, ...]
    survival: Survival | None = None
    imaging: Imaging | None = None
    """What images the study can use; a site without any takes part with its table."""

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise UsageError("C03", *faults)

    def at(self, time: str) -> Schema:
        """The schema of a task whose prediction time is `time`: features that are available by
        then, no others."""
        if time not in self.times:
            raise UsageError(
                "C03",
                f"schema '{self.name}' has no time '{time}'; its times are {', '.join(self.times)}",
            )
        allowed = self.times[: self.times.index(time) + 1]
        return dataclasses.replace(
            self, features=tuple(f for f in self.features if f.available_at in allowed)
        )

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        out: list[Column] = []
        for f in self.features:
            if isinstance(f, Number):
                out.append(Column(f.name, f, None, f.low, f.high, f.scale))
            elif f.ordered:
                out.append(Column(f.name, f, None, 0.0, len(f.values) - 1.0, "linear"))
            else:
                out += [
                    Column(f"{f.name}={v}", f, i, 0.0, 1.0, "linear")
                    for i, v in enumerate(f.values)
                    if i > 0
                ]
        return tuple(out)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the definition; equal at all sites before the first round (guard D07)."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def design(self, values: Floats) -> Floats:
        """Values as a Cohort holds them, (n, features) -> the design matrix (n, columns) in natural
        units, NaN where missing."""
        out = np.empty((len(values), len(self.columns)), np.float64)
        index = {f.name: i for i, f in enumerate(self.features)}
        for j, column in enumerate(self.columns):
            x = values[:, index[column.feature.name]]
            out[:, j] = (
                x
                if column.level is None
                else np.where(np.isnan(x), np.nan, (x == column.level).astype(np.float64))
            )
        return out


def _faults(schema: Schema) -> list[str]:
    where = f"schema '{schema.name}'"
    out = []
    names = [f.name for f in schema.features]
    out += [
        f"{where}: feature '{n}' is declared {times} times; give each its own name"
        for n, times in sorted(Counter(names).items())
        if times > 1
    ]
    if schema.label.name in names:
        out.append(
            f"{where}: the label '{schema.label.name}' is also a feature; remove it from the "
            "features"
        )
    if not schema.times or len(set(schema.times)) < len(schema.times):
        out.append(
            f"{where}: times {list(schema.times)} must be at least one, each once, earliest first"
        )
    if len(schema.label.classes) < 2 or len(set(schema.label.classes)) < len(schema.label.classes):
        out.append(
            f"{where}: label '{schema.label.name}' needs at least two different classes, has "
            f"{list(schema.label.classes)}"
        )
    for text in (schema.label.name, *schema.label.classes):
        if _CONTROLS.search(text):
            out.append(f"{where}: {text!r} of the label has control characters")
    for f in schema.features:
        if any(ord(c) < 32 for c in f.name) or not f.name:
            out.append(f"{where}: feature name {f.name!r} is empty or has control characters")
        if f.available_at not in schema.times:
            out.append(
                f"{where}: feature '{f.name}' is available_at '{f.available_at}', which is none "
                f"of the times {list(schema.times)}"
            )
        if isinstance(f, Number) and not (
            np.isfinite(f.low) and np.isfinite(f.high) and f.low < f.high
        ):
            out.append(
                f"{where}: number '{f.name}' needs finite bounds with low < high, has "
                f"low={f.low}, high={f.high}"
            )
        if isinstance(f, Number) and f.scale not in ("linear", "log"):
            out.append(f"{where}: number '{f.name}' has scale '{f.scale}'; allowed: linear, log")
        if isinstance(f, Choice) and (len(f.values) < 2 or len(set(f.values)) < len(f.values)):
            out.append(
                f"{where}: choice '{f.name}' needs at least two different values, has "
                f"{list(f.values)}"
            )
    return out + (_imaging_faults(where, schema.imaging) if schema.imaging else [])


def _imaging_faults(where: str, imaging: Imaging) -> list[str]:
    out = []
    names = [c.name for c in imaging.channels]
    if not names or len(set(names)) < len(names):
        out.append(f"{where}: image channels {names} must be at least one, each once")
    for channel in imaging.channels:
        if channel.modality not in MODALITIES:
            out.append(
                f"{where}: channel '{channel.name}' is of modality {channel.modality!r}, known "
                f"are {', '.join(MODALITIES)}"
            )
    modalities = sorted({c.modality for c in imaging.channels})
    if len(modalities) > 1:
        out.append(
            f"{where}: image channels are of {' and '.join(modalities)}; a study's are prepared in "
            "one way and must be of one modality"
        )
    elif names and (imaging.window is not None) != imaging.modality.hounsfield:
        needs = "a window" if imaging.modality.hounsfield else "no window"
        out.append(f"{where}: images of {modalities[0]} need {needs}, given is {imaging.window}")
    if len(imaging.regions) > 8 or len(set(imaging.regions)) < len(imaging.regions):
        out.append(f"{where}: image regions {list(imaging.regions)} must be at most 8, each once")
    for region in (*imaging.lesion, *filter(None, [imaging.organ])):
        if region not in imaging.regions:
            out.append(f"{where}: '{region}' is none of the image regions {list(imaging.regions)}")
    if imaging.window is not None and not imaging.window[0] < imaging.window[1]:
        out.append(f"{where}: the window {imaging.window} must have its lower end first")
    if min(*imaging.spacing_mm, *imaging.crop_mm, *imaging.coarse, imaging.crops) <= 0:
        out.append(f"{where}: image spacing, crop and grid sizes must be above 0")
    return out
