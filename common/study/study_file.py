"""A study of one's own in one TOML file: the schema, and where the table holds it. `docs/own-study.md` explains every key.

The file becomes a Study whose `source` is a mapping in the form of `client/table/sources/*.toml`; every fault of the file is named at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from common.data.schema import Choice, Feature, Label, Number, Schema, Survival
from common.errors import UsageError
from common.study.study import Study, Task

_TOP = (
    "name", "question", "table", "sheet", "header", "comment", "delimiter", "encoding", "decimal", "thousands", "id", "id_per_site",
    "person", "site", "site_from_file", "nulls", "duplicates", "keep", "times", "label", "feature", "task", "survival", "learners",
    "hyper", "clinical", "denied", "virtual",
)  # fmt: skip
_LABEL = ("name", "column", "classes", "values", "unknown", "title")
_FEATURE = (
    "name", "column", "kind", "unit", "column_unit", "unit_column", "low", "high", "scale", "values", "ordered", "map", "nulls",
    "available_at", "title", "out_of_range", "not_an_outcome",
)  # fmt: skip
_KEEP = ("column", "values", "reason")
_TASK = ("time", "caution", "alarm")
_SURVIVAL = ("name", "time", "event", "unit", "horizon", "dead", "alive")
_ONE_OF: dict[str, tuple[object, ...]] = {
    "kind": ("number", "choice"), "scale": ("linear", "log"), "out_of_range": ("error", "missing"), "decimal": (".", ","),
    "thousands": ("", ",", ".", " ", "'"),
    "duplicates": ("error", "quarantine", "agree"),
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,), "question": (str,), "column": (str,), "id": (str,), "site": (str,), "site_from_file": (bool,), "sheet": (str,),
    "id_per_site": (bool,), "person": (str,), "unit": (str,), "column_unit": (str,), "unit_column": (str,), "low": (int, float),
    "high": (int, float), "horizon": (int, float), "ordered": (bool,), "available_at": (str,), "title": (str,), "times": (list,),
    "classes": (list,), "nulls": (list, str, int, float), "feature": (list,), "keep": (list,), "label": (dict,), "task": (dict,),
    "survival": (dict,), "learners": (list,), "hyper": (dict,), "clinical": (str,), "denied": (list,), "virtual": (str,),
    "table": (str, list), "delimiter": (str,), "encoding": (str,), "comment": (str,), "alarm": (int, float), "caution": (str,),
    "not_an_outcome": (str,),
}  # fmt: skip

KEYS = tuple(dict.fromkeys((*_TOP, *_LABEL, *_FEATURE, *_KEEP, *_TASK, *_SURVIVAL)))
"""Every key that a study file may have."""

ANY_TABLE = ("*.csv", "*.tsv", "*.txt", "*.xlsx", "*.parquet")
"""What is read where the file does not name its table: every table under the data folder."""


def from_toml(raw: Mapping[str, Any], where: str) -> Study:
    """The study that a TOML document describes. Raises UsageError (C02, or C03 where the schema contradicts itself)."""
    reader = _Reader(where)
    top = reader.check(raw, "the file", _TOP, ("id", "label", "feature"))
    name = str(top.get("name", PurePath(where).stem))
    times = tuple(str(t) for t in top.get("times", ["baseline"]))
    label, label_source = reader.label(top.get("label", {}))
    pairs = [reader.feature(f, n, times) for n, f in enumerate(top.get("feature", ()), 1)]
    features = [feature for feature, _ in pairs if feature is not None]
    survival, survival_source = reader.survival(top["survival"]) if "survival" in top else (None, None)
    tasks = reader.tasks(top.get("task", {}), times)
    learners = reader.learners(top)
    source: dict[str, Any] = {
        "name": name,
        "studies": [name],
        "nulls": _texts(top.get("nulls", ())),
        "tables": {"table": reader.table(top)},
        "site": reader.site(top, name),
        "label": label_source,
        "features": {feature.name: mapped for feature, mapped in pairs if feature is not None},
    }
    if survival_source is not None:
        source["survival"] = survival_source
    schema = reader.schema(name, tuple(features), label, times, survival)
    reader.raise_faults()
    assert schema is not None
    return Study(
        name=name,
        question=str(top.get("question", f"Which {label.name} does a patient have?")),
        schema=schema,
        tasks=tasks,
        learners=learners,
        hyper=top.get("hyper", {}),
        clinical=top.get("clinical"),
        denied=tuple(top.get("denied", ())),
        source=source,
        virtual=str(top.get("virtual", "")),
        overrides={f["name"]: f["not_an_outcome"] for f in top["feature"] if "not_an_outcome" in f},
    )


class _Reader:
    """Reads the parts of one file and gathers what is wrong with it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[str] = []
        self.contradictions: list[str] = []

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.where}: {text}")

    def raise_faults(self) -> None:
        if self.faults or self.contradictions:
            raise UsageError("C02" if self.faults else "C03", *self.faults, *self.contradictions)

    def check(self, raw: Any, at: str, allowed: Collection[str], needed: Iterable[str] = ()) -> dict[str, Any]:
        """The entries of a table that are known and of the right type; all others become faults."""
        if not isinstance(raw, Mapping):
            self.fault(f"{at} must be a table of keys and values, is {raw!r}")
            return {}
        out = {}
        for key, value in raw.items():
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, 1)
                self.fault(
                    f"{at} has an unknown key '{key}'"
                    + (f"; did you mean '{near[0]}'?" if near else "")
                    + f" (allowed: {', '.join(sorted(allowed))})"
                )
            elif key in _ONE_OF and value not in _ONE_OF[key]:
                self.fault(f"{at}: {key} = {value!r} is not one of {', '.join(map(str, _ONE_OF[key]))}")
            elif key in _TYPES and (not isinstance(value, _TYPES[key]) or (isinstance(value, bool) and bool not in _TYPES[key])):
                self.fault(f"{at}: {key} = {value!r} must be {' or '.join(t.__name__ for t in _TYPES[key])}")
            else:
                out[key] = value
        for key in needed:
            if key not in raw:
                self.fault(f"{at} lacks '{key}'")
        return out

    def table(self, top: Mapping[str, Any]) -> dict[str, Any]:
        files = top.get("table", list(ANY_TABLE))
        files = [files] if isinstance(files, str) else list(files)
        for name in files:
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                self.fault(f"table = '{name}' must be a name or a pattern inside the data folder (give the folder, or the file, as --data)")
        plain = ("sheet", "header", "comment", "delimiter", "encoding", "decimal", "thousands", "person", "id_per_site")
        out = {key: top[key] for key in plain if key in top}
        if top.get("thousands") == top.get("decimal", "."):
            self.fault(f"thousands and decimal are both '{top['thousands']}'; correct one of them")
        if top.get("id_per_site") and not ("site" in top or top.get("site_from_file")):
            self.fault("id_per_site needs to know the hospital: name its column (site = ...) or declare site_from_file = true")
        rule = top.get("duplicates", "error")
        rows = {"rows": "agree"} if rule == "agree" else {"rows": "one", "duplicates": rule}
        keep = [
            {**k, "values": _texts(k.get("values", ()))}
            for k in (self.check(k, "[[keep]]", _KEEP, ("column", "values")) for k in top.get("keep", ()))
        ]
        return {"files": files, "key": top.get("id", ""), **rows, "keep": keep, **out}

    def site(self, top: Mapping[str, Any], name: str) -> dict[str, Any]:
        if "site" in top and top.get("site_from_file"):
            self.fault("site and site_from_file exclude each other")
        if top.get("site_from_file"):
            return {"from_file": True}
        return {"column": top["site"]} if "site" in top else {"constant": name}

    def label(self, raw: Any) -> tuple[Label, dict[str, Any]]:
        lab = self.check(raw, "[label]", _LABEL, ("column",))
        values = lab.get("values", lab.get("classes", []))
        if isinstance(values, Mapping):
            classes = _texts(lab.get("classes", _keys_or_values(values)))
            mapped = self.value_map(values, classes, "[label] values")
        else:
            raws = _texts(values)
            classes = _texts(lab.get("classes", raws))
            if len(raws) != len(classes):
                told = f"{len(classes)} classes ({', '.join(classes)}) and {len(raws)} values ({', '.join(raws)})"
                self.fault(f"[label] has {told}; give a value for each class")
            mapped = {c: [r] for c, r in zip(classes, raws, strict=False)}
        if not classes and raw:
            self.fault(
                "[label] needs 'values', the two or more values of its column (the first is the reference, the last of two the event)"
            )
        name = str(lab.get("name", lab.get("column", "label")))
        source = {"column": lab.get("column", ""), "values": mapped, "unknown": _texts(lab.get("unknown", ()))}
        return Label(name, tuple(classes), str(lab.get("title", ""))), source

    def value_map(self, raw: Any, names: Collection[str], at: str) -> dict[str, list[str]]:
        """`{study value = [table values]}`, written so or as `{table value = study value}`."""
        out: dict[str, list[str]] = {}
        if not isinstance(raw, Mapping):
            self.fault(f"{at} must be a table of values, is {raw!r}")
            return out
        for key, value in raw.items():
            texts = _texts(value)
            if key in names:
                out.setdefault(key, []).extend(texts)
            elif len(texts) == 1 and texts[0] in names:
                out.setdefault(texts[0], []).append(key)
            else:
                self.fault(f"{at}: {key} = {value!r} names none of the study's values {', '.join(names)}")
        return out

    def number_map(self, raw: Any, at: str) -> dict[str, list[str]]:
        """`{number = [table values]}`, written `{ "<0.5" = 0.25 }`."""
        out: dict[str, list[str]] = {}
        if not isinstance(raw, Mapping):
            self.fault(f"{at} must be a table of values, is {raw!r}")
            return out
        for text, value in raw.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                out.setdefault(repr(float(value)), []).append(text)
            else:
                self.fault(f'{at}: {text} = {value!r} must be the number that stands for this text, e.g. "<0.5" = 0.25')
        return out

    def feature(self, raw: Any, n: int, times: tuple[str, ...]) -> tuple[Feature | None, dict[str, Any]]:
        at = f"[[feature]] {raw['name']!r}" if isinstance(raw, Mapping) and "name" in raw else f"[[feature]] number {n}"
        f = self.check(raw, at, _FEATURE, ("name",))
        kind = f.get("kind", "choice" if "values" in f else "number")
        source: dict[str, Any] = {"column": f.get("column", f.get("name", ""))}
        source |= {k: f[k] for k in ("unit_column", "out_of_range", "not_an_outcome") if k in f}
        source["nulls"] = _texts(f.get("nulls", ()))
        if "available_at" not in f and len(times) > 1:
            self.fault(f"{at} lacks 'available_at', one of the times {', '.join(times)}")
        common = {"available_at": f.get("available_at", times[0] if times else ""), "title": f.get("title", "")}
        if kind == "number":
            wrong = [k for k in ("values", "ordered") if k in f]
            if wrong:
                self.fault(f'{at} is a number and cannot have {", ".join(wrong)}; declare kind = "choice" for a vocabulary')
            lacks = [k for k in ("unit", "low", "high") if k not in raw]
            if lacks:
                self.fault(
                    f"{at} is a number and lacks {', '.join(repr(k) for k in lacks)} (low and high: outside them a value is an error)"
                )
            if wrong or any(k not in f for k in ("name", "unit", "low", "high")):
                return None, source
            source["unit"] = f.get("column_unit", f["unit"])
            source["values"] = self.number_map(f.get("map", {}), f"{at} map")
            return Number(f["name"], f["unit"], float(f["low"]), float(f["high"]), scale=f.get("scale", "linear"), **common), source
        foreign = [k for k in ("unit", "column_unit", "unit_column", "low", "high", "scale", "out_of_range") if k in f]
        if foreign:
            self.fault(f"{at} is a choice and cannot have {', '.join(foreign)}")
        if "values" not in f:
            self.fault(f"{at} is a choice and lacks 'values', its vocabulary")
        if foreign or "values" not in f or "name" not in f:
            return None, source
        names = tuple(_texts(f["values"]))
        source["values"] = self.value_map(f.get("map", {}), names, f"{at} map")
        return Choice(f["name"], names, ordered=f.get("ordered", False), **common), source

    def survival(self, raw: Any) -> tuple[Survival | None, dict[str, Any] | None]:
        s = self.check(raw, "[survival]", _SURVIVAL, ("time", "event", "unit", "horizon", "dead", "alive"))
        if any(k not in s for k in ("time", "event", "unit", "horizon", "dead", "alive")):
            return None, None
        times = s["time"] if isinstance(s["time"], list) else [s["time"]]
        source = {"times": times, "unit": s["unit"], "event": s["event"], "dead": _texts(s["dead"]), "alive": _texts(s["alive"])}
        return Survival(str(s.get("name", "survival")), s["unit"], float(s["horizon"])), source

    def tasks(self, raw: Any, times: tuple[str, ...]) -> dict[str, Task]:
        out = {}
        for name, entry in raw.items():
            t = self.check(entry, f"[task.{name}]", _TASK)
            time = t.get("time", name if name in times else times[-1] if len(times) == 1 else "")
            if time not in times:
                self.fault(f"[task.{name}]: time = '{time}' is none of the times {', '.join(times)}")
            out[name] = Task(str(time), str(t.get("caution", "")), t.get("alarm"))
        return out or {t: Task(t) for t in times}

    def learners(self, top: Mapping[str, Any]) -> tuple[str, ...]:
        from common.federated import learner

        chosen = tuple(top.get("learners", ("logistic", "boosting")))
        if "learners" in top:
            for name in chosen:
                if name not in learner.names():
                    self.fault(f"learners: '{name}' is unknown; there are {', '.join(learner.names())}")
        for name in top.get("hyper", {}):
            if name not in (*chosen, *learner.names()):
                self.fault(f"[hyper.{name}]: there is no such learner; the study has {', '.join(chosen)}")
        if "clinical" in top and top["clinical"] not in chosen:
            self.fault(f"clinical = '{top['clinical']}' is none of the learners {', '.join(chosen)}")
        for pattern in top.get("denied", ()):
            try:
                re.compile(str(pattern))
            except re.error as error:
                self.fault(f"denied: {pattern!r} is not a regular expression ({error})")
        return chosen

    def schema(
        self, name: str, features: tuple[Feature, ...], label: Label, times: tuple[str, ...], survival: Survival | None
    ) -> Schema | None:
        try:
            return Schema(name, features, label, times, survival)
        except UsageError as error:
            self.contradictions += list(error.faults)
            return None


def _texts(raw: Any) -> list[str]:
    """A value or a list of values as texts; TOML booleans and numbers in the form in which cells are read."""
    return [v if isinstance(v, str) else str(v).lower() for v in (raw if isinstance(raw, list | tuple) else [raw])]


def _keys_or_values(values: Mapping[str, Any]) -> list[str]:
    """The classes of a label whose `values` is a table: its keys over lists, or else its distinct values in order."""
    if any(isinstance(v, list) for v in values.values()):
        return list(values)
    return list(dict.fromkeys(_texts(list(values.values()))))
