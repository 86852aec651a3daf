"""The reference, made from the code: what a key, an option or a metric is, is said where it is
declared, and nowhere else.

A page of `docs/reference/` has a line `<!-- made: NAME -->` where the table goes; `python -m
docs.reference NAME` prints it.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from client.__main__ import parser as client_parser
from client.site import privacy_policy, site_file
from client.table import mapping, mapping_file
from common.data.schema import Number, Schema
from common.errors import CODES
from common.federated import learner as learners
from common.metrics.definitions import METRICS
from common.networks import classifier_files
from common.study import image_sections, study_file
from common.study import load as studies
from deploy import federation
from deploy.__main__ import parser as deploy_parser
from docs import rooms
from server.__main__ import parser as server_parser
from server.config import run_config
from simulation.__main__ import parser as simulation_parser

HERE = Path(__file__).parent
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "simulation": simulation_parser,
    "client": client_parser,
    "server": server_parser,
    "deploy": deploy_parser,
}
ENVIRONMENT = {
    "FEDMETS_DEVICE": "where networks are trained: `cpu`, `cuda` or `cuda:N`; without it the GPU, "
    "if there is one",
    "FEDMETS_DATA": "tests: the folder with the real tables. Beside a kit's `compose.yaml`: the "
    "folder that the station reads",
    "FEDMETS_IMAGES": "beside a kit's `compose.yaml`: the folder with the images, where they lie "
    "apart",
    "FEDMETS_USER": "beside a kit's `compose.yaml`: user and group (`1000:1000`) as whom its "
    "containers run",
    "FEDMETS_SIGNER": "beside a coordinator's `compose.yaml`: user and group as whom the signer runs, "
    "the owner of the folder `signer`",
    "FEDMETS_STATION_MEMORY": "beside a kit's `compose.yaml`: the most memory of the station (`64g`)",
    "FEDMETS_COURIER_MEMORY": "beside a kit's `compose.yaml`: the most memory of the courier (`8g`)",
    "FEDMETS_DOOR_MEMORY": "beside a coordinator's `compose.yaml`: the most memory of the door (`8g`)",
    "FEDMETS_SIGNER_MEMORY": "beside a coordinator's `compose.yaml`: the most memory of the signer "
    "(`32g`)",
    "FEDMETS_ENGINE": "tests of the containers: `podman` (default) or `docker`",
    "COMPOSE": "`check.sh` of a kit: `podman-compose` in place of `docker compose`",
    "HTTPS_PROXY": "the courier's way out, where a site has a proxy",
    "HYPOTHESIS_PROFILE": "tests: `explore` looks for new examples",
}
"""Variable -> who reads it, and what it says."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A setting as its dataclass declares it."""

    name: str
    kind: str
    default: str
    told: str


def keys(cls: type, only: Iterable[str] | None = None, values: Any = None) -> list[Key]:
    """The fields of a dataclass with the sentences that stand below them; `values`: an instance
    that has the defaults."""
    told: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for part in reversed([base for base in cls.__mro__ if "__dataclass_fields__" in vars(base)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                kinds[node.target.id] = _kind(node.annotation)
                if (
                    isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                ):
                    told[node.target.id] = inspect.cleandoc(after.value.value)
    wanted = set(only) if only is not None else None
    out = []
    for f in dataclasses.fields(cls):
        if wanted is None or f.name in wanted:
            out.append(Key(f.name, kinds[f.name], _default(f, values), told.get(f.name, "")))
    return out


def _kind(node: ast.expr) -> str:
    """What an annotation means to somebody who writes the file."""
    if isinstance(node, ast.BinOp):
        return _kind(node.left)
    if isinstance(node, ast.Subscript):
        outer, inner = (
            ast.unparse(node.value),
            node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice],
        )
        if outer == "Annotated":
            return _kind(inner[0])
        if outer in ("Listed", "Several"):
            return f"list: {_kind(inner[0])}"
        if outer == "Mapping":
            return f"table: {_kind(inner[1])}"
        if outer == "Literal":
            return " or ".join(
                code(ast.literal_eval(e)) if ast.literal_eval(e) else "empty" for e in inner
            )
    name = ast.unparse(node)
    return "table" if name in _TABLES else _KINDS.get(name, name)


def _default(field: dataclasses.Field[Any], values: Any) -> str:
    if values is not None:
        value = getattr(values, field.name)
    elif field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if (
        value is None
        or value == ""
        or value == ()
        or value == {}
        or dataclasses.is_dataclass(value)
    ):
        return "none"
    if isinstance(value, Path):
        return code(str(value))
    if isinstance(value, bool):
        return code(str(value).lower())
    return code(json.dumps(list(value)) if isinstance(value, tuple) else str(value))


_KINDS = {
    "str": "text", "Name": "text", "Text": "text", "TableName": "text", "KnownFrom": "text",
    "Learner": "text",
    "Pattern": "regular expression", "PublicKey": "64 hex digits", "int": "whole number",
    "Whole": "whole number", "float": "number",
    "Least": "number", "bool": "true or false", "Location": "path", "datetime.date": "date",
    "tuple[int, int]": "two whole numbers", "Window": "two numbers",
    "Grid": "three whole numbers", "Millimetres": "three numbers",
    "Range": "the least and the most", "Names": "text or list of texts",
    "Cells": "value or list of values",
    "Wholes": "whole number or list of them", "Columns": "text, table, or list of them",
    "Values": "table: value or list of values",
    "_ByClass": "list or table of values", "Require": "`none`, `dp` or `secagg`", "Kind": "text",
    "Any": "value",
}  # fmt: skip
_TABLES = (
    "Policy", "Keep", "KeepSection", "TableSection", "FieldSection", "FeatureSection",
    "LabelSection", "WithinSection", "SiteSpec",
    "SurvivalSection", "ImagesSpec", "ImagingSection", "TaskSection",
)  # fmt: skip


def code(text: str) -> str:
    return f"`{text}`"


def line(text: str) -> str:
    """One cell: no line breaks, and no bar that would end it."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def prose(text: str) -> str:
    """A docstring's words as Markdown: formulas and placeholders are no markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", p) for p in parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(line(c) for c in row)} |" for row in rows)]) + "\n"


def settings(found: Iterable[Key]) -> str:
    return table(
        ("key", "type", "default", "meaning"),
        ((code(k.name), k.kind, k.default, prose(k.told)) for k in found),
    )


def of_run() -> str:
    return settings(keys(run_config.Run))


def of_site() -> str:
    return settings(keys(site_file.Site))


def of_policy() -> str:
    return settings(keys(privacy_policy.Policy))


def of_federation() -> str:
    return settings(keys(federation.Federation))


MAPPING: Mapping[str, type] = {
    "The file": mapping.MappingFile,
    "`[tables.NAME]`": mapping.TableSection,
    "`[[tables.NAME.keep]]`": mapping.Keep,
    "`[site]`": mapping.SiteSpec,
    "`[label]`": mapping.LabelSection,
    "`[label.within]`": mapping.WithinSection,
    "`[features.NAME]`": mapping.FieldSection,
    "`[survival]`": mapping.SurvivalSection,
    "`[images]`": image_sections.ImagesSpec,
    "`[images.rescale]`": image_sections.Rescale,
}
STUDY: Mapping[str, type] = {
    "The file": study_file.StudyFile,
    "`[label]`": study_file.LabelSection,
    "`[[feature]]`, a number": study_file.NumberSection,
    "`[[feature]]`, a choice": study_file.ChoiceSection,
    "`[[keep]]`": study_file.KeepSection,
    "`[task.NAME]`": study_file.TaskSection,
    "`[survival]`": study_file.SurvivalSection,
    "`[imaging]`": image_sections.ImagingSection,
    "`[images]`": image_sections.ImagesSpec,
    "`[images.rescale]`": image_sections.Rescale,
}
"""Section of a file -> its keys."""


def section(cls: type) -> list[Key]:
    """The keys of one section; a label is a field with two keys more: its section has these
    alone."""
    inherited = (
        {f.name for f in dataclasses.fields(mapping.FieldSection)}
        if cls is mapping.LabelSection
        else set()
    )
    return [key for key in keys(cls) if key.name not in inherited]


def _sections(of: Mapping[str, type]) -> str:
    out = []
    for title, cls in of.items():
        more = "As `[features.NAME]`, and:\n\n" if cls is mapping.LabelSection else ""
        out.append(f"## {title}\n\n{more}{settings(section(cls))}")
    return "\n".join(out)


def of_mapping() -> str:
    return _sections(MAPPING)


def of_study() -> str:
    return _sections(STUDY)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command with its options; `words` as they are typed."""

    words: str
    told: str
    options: tuple[tuple[str, str], ...]


def commands(module: str) -> list[Command]:
    return _commands(PARSERS[module](), f"python -m {module}")


def _commands(parser: argparse.ArgumentParser, words: str) -> list[Command]:
    options, inner = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                inner += _commands(sub, f"{words} {name}")
        elif not isinstance(action, argparse._HelpAction):
            options.append((_option(action), _meaning(action)))
    mine = (
        [Command(words, (parser.description or "").split("\n")[0], tuple(options))]
        if options
        else []
    )
    return mine + inner


def _option(action: argparse.Action) -> str:
    shown = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return str(shown)
    takes = "" if action.nargs == 0 else f" {shown}"
    return f"{', '.join(action.option_strings)}{takes}"


def _meaning(action: argparse.Action) -> str:
    told = action.help or ""
    if action.required and action.option_strings:
        told += " (required)" if told else ""
    return told


def of_commands() -> str:
    out = []
    for module in PARSERS:
        out.append(f"## {code(f'python -m {module}')}\n")
        for command in commands(module):
            if command.words != f"python -m {module}":
                out.append(f"### {code(command.words)}\n")
            out.append(f"{prose(command.told.strip().rstrip('.'))}.\n")
            out.append(
                table(("option", "meaning"), ((code(o), prose(t)) for o, t in command.options))
            )
    return "\n".join(out)


def of_metrics() -> str:
    return table(("metric", "definition"), ((code(m.name), m.definition) for m in METRICS))


def _about(learner: Any) -> str:
    """The first paragraphs of the learner's file, or of the one that it is made of."""
    module = sys.modules[type(learner).__module__]
    own = next(m for n, m in sys.modules.items() if n == f"common.learners.{learner.name}")
    return inspect.cleandoc((own if own.__doc__ else module).__doc__ or "").split("\n\n")[0]


def hypers(learner: Any) -> list[Key]:
    """Hyperparameters, those that learners share among them."""
    out = []
    for f in dataclasses.fields(learner):
        value = getattr(learner, f.name)
        if dataclasses.is_dataclass(value):
            out += hypers(value)
        elif not isinstance(learner, learners.Federated) or f.name in learners.hyper_names(learner):
            out += keys(type(learner), [f.name], learner)
    return out


def of_learners() -> str:
    out = []
    for name in learners.names():
        learner: Any = learners.load(name)
        heads = (
            "A head: it predicts the label."
            if isinstance(learner, learners.Head)
            else "No head: it serves others, or the report."
        )
        sends = table(
            ("phase", "exchanges", "bounded", "what a site sends, summed over its patients"),
            (
                (
                    code(name),
                    str(phase.exchanges),
                    "no" if phase.bound is None else "yes",
                    phase.sends,
                )
                for name, phase in learner.phases.items()
            ),
        )
        looks = " and ".join(sorted(learner.modality)) or "what the heads look at"
        out += [
            f"## {code(name)}\n",
            f"{prose(_about(learner))}\n",
            f"{heads} It looks at: {looks}.\n",
            sends,
        ]
        if found := hypers(learner):
            rows = ((code(k.name), k.default, prose(k.told)) for k in found)
            out.append(table(("hyperparameter", "default", "meaning"), rows))
    networks = [classifier_files.load(name) for name in classifier_files.names()]
    out += [
        "## Networks on images\n",
        table(
            ("network", "what it is", "smallest crop (z, y, x)"),
            ((code(n.name), n.title, " x ".join(map(str, n.smallest))) for n in networks),
        ),
    ]
    return "\n".join(out)


def features(schema: Schema) -> list[tuple[str, str, str, str, str]]:
    """Name, what it is, unit or kind, bounds or vocabulary, when it is known."""
    out = []
    for f in schema.features:
        if isinstance(f, Number):
            kind, allowed = (
                f.unit + (", log scale" if f.scale == "log" else ""),
                f"{f.low:,g} to {f.high:,g}",
            )
        else:
            kind, allowed = "grades" if f.ordered else "choice", ", ".join(f.values)
        out.append((code(f.name), f.title or f.name, kind, allowed, code(f.available_at)))
    return out


def of_studies() -> str:
    out = []
    for name in studies.names():
        study = studies.load(name)
        schema, label = study.schema, study.schema.label
        out += [f"## {code(name)}\n", f"{prose(study.question)}\n"]
        if study.virtual:
            out.append(f"{prose(study.virtual)}\n")
        out.append(
            table(
                ("task", "what is said beside it"),
                ((code(k), prose(t.caution)) for k, t in study.tasks.items()),
            )
        )
        out.append(
            table(
                ("feature", "what it is", "unit", "bounds or values", "available at"),
                features(schema),
            )
        )
        out.append(
            f"Label: {code(label.name)}, {prose(label.title)}; classes "
            f"{', '.join(map(code, label.classes))}, the first the reference.\n"
        )
        out.append(f"Heads, in order: {', '.join(map(code, study.learners))}.\n")
        if schema.imaging:
            image = schema.imaging
            out.append(
                table(
                    ("channel", "modality", "what it is"),
                    ((code(c.name), c.modality, c.title) for c in image.channels),
                )
            )
            lesion = f" A lesion is {', '.join(map(code, image.lesion))}." if image.lesion else ""
            regions = ", ".join(map(code, image.regions)) or "none"
            spacing = " x ".join(f"{s:g}" for s in image.spacing_mm)
            out.append(
                f"Regions that an expert may have outlined: {regions}.{lesion} Prepared at "
                f"{spacing} mm (z, y, x).\n"
            )
        sources = [source.name for source in mapping_file.builtin(name)]
        out.append(
            f"Source mappings that come with it: {', '.join(map(code, sources)) or 'none'}.\n"
        )
    return "\n".join(out)


def of_report() -> str:
    """Keys of report.json, and of the objects in it, as the schema has them."""
    schema = json.loads((HERE / "report.schema.json").read_text())
    out = [table(("key", "type", "always"), _properties(schema))]
    for name, inner in schema.get("$defs", {}).items():
        if "properties" in inner:
            out += [f"## {code(name)}\n", table(("key", "type", "always"), _properties(inner))]
    return "\n".join(out)


def _properties(schema: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    needed = set(schema.get("required", ()))
    return [
        (code(k), _type(v), "yes" if k in needed else "no")
        for k, v in schema.get("properties", {}).items()
    ]


def _type(of: Mapping[str, Any]) -> str:
    if "const" in of:
        return code(json.dumps(of["const"]))
    if "enum" in of:
        return ", ".join(code(json.dumps(v)) for v in of["enum"])
    if "$ref" in of:
        return code(of["$ref"].rsplit("/", 1)[-1])
    for several in ("anyOf", "oneOf"):
        if several in of:
            return " or ".join(_type(o) for o in of[several])
    kind = of.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return (
        f"{text} of {_type(of['items'])}"
        if isinstance(of.get("items"), dict) and of["items"]
        else text
    )


def of_environment() -> str:
    return table(("variable", "meaning"), ((code(k), v) for k, v in ENVIRONMENT.items()))


def of_errors() -> str:
    return table(
        ("code", "what to do", "meaning"),
        ((name, prose(each.way_out), prose(each.meaning)) for name, each in CODES.items()),
    )


MADE: dict[str, Callable[[], str]] = {
    "run": of_run,
    "site": of_site,
    "policy": of_policy,
    "federation": of_federation,
    "mapping": of_mapping,
    "study": of_study,
    "commands": of_commands,
    "metrics": of_metrics,
    "learners": of_learners,
    "studies": of_studies,
    "report": of_report,
    "environment": of_environment,
    "errors": of_errors,
    "rooms": rooms.picture,
    "route": rooms.route,
    "roomlist": rooms.table,
}
"""Marker of a page -> what stands there."""


@cache
def made(name: str) -> str:
    return MADE[name]()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docs.reference", description="print a part of the reference as Markdown"
    )
    parser.add_argument("name", choices=MADE)
    print(made(parser.parse_args().name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
