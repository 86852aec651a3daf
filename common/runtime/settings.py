"""Settings files: what people write in TOML, read by pydantic into frozen dataclasses, every fault
of a file at once.

A kind of file is a frozen dataclass below `Settings`: types are strict, unknown keys are refused,
the sentence below a key is its documentation, and `faults` has the rules between keys. Python code
makes such an object as any other dataclass, unchecked; a file becomes one by `load` or `checked`
alone.
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from common.errors import UsageError

T = TypeVar("T")
Rule = tuple[str, str]
"""A key (empty: the table as a whole) and what is wrong with it, as it is said of it: `must be
above 0`."""


MOST_FAULTS = 200
"""That are told of one file: a file that came from elsewhere may have as many as it has bytes."""


class Settings:
    """What a settings file, or a table of one, may say."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    def faults(self) -> Iterable[Rule]:
        """What is wrong between keys that are right one by one."""
        return ()

    def faults_beside(self, written: frozenset[str]) -> Iterable[Rule]:
        """What is wrong between the keys that the file has, whatever they say."""
        return ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        # strict would ask for an instance; a table of a file is to become one
        cast(dict[str, Any], handler.resolve_ref_schema(schema))["strict"] = False
        keys = tuple(f.name for f in fields(cast(Any, cls)))

        def read(
            table: Any, handler: core_schema.ValidatorFunctionWrapHandler, info: ValidationInfo
        ) -> Any:
            if info.context is not None:
                info.context["keys"][id(table)] = keys
            is_table = isinstance(table, Mapping)
            settings = handler(dict(table) if is_table else table)
            written = frozenset(table) if is_table else frozenset[str]()
            if rules := (*settings.faults(), *settings.faults_beside(written)):
                raise BrokenRules(*rules, settings=settings)
            return settings

        return core_schema.with_info_wrap_validator_function(read, schema)


class BrokenRules(ValueError):
    """Several faults of one value, for a validator; `settings` has the values of the keys that they
    name."""

    def __init__(self, *rules: Rule, settings: Settings | None = None) -> None:
        super().__init__("; ".join(text for _, text in rules))
        self.rules, self.settings = rules, settings


@dataclass(frozen=True)
class Form:
    """A text that matches `pattern` as a whole; `wanted` says so in words."""

    pattern: re.Pattern[str]
    wanted: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^(?:{self.pattern.pattern})$"}

    def _check(self, text: str) -> str:
        if not self.pattern.fullmatch(text):
            raise ValueError(f"must be {self.wanted}")
        return text


def each_once(listed: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(listed)) < len(listed):
        raise ValueError(f"names one twice ({', '.join(map(str, listed))})")
    return listed


def several(value: Any) -> Any:
    """One value as a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _cell(value: Any) -> Any:
    """TOML booleans, numbers and dates in the form in which a table's cells are read."""
    return str(value).lower() if isinstance(value, bool | int | float | datetime.date) else value


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError('must be the texts that mean missing, such as ["NA", "-9"]')
    return value


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return text


def _located(value: Any, info: ValidationInfo) -> Any:
    path = Path(value) if isinstance(value, str) else value
    if isinstance(path, Path) and info.context is not None:
        return info.context["folder"] / path
    return path


Listed = Annotated[tuple[T, ...], Strict(False)]
Name = Annotated[
    str,
    Form(
        re.compile(r"(?=.*\S)[^\x00-\x1f]+"),
        "a text that is not empty and has no control characters",
    ),
]
Pattern = Annotated[str, AfterValidator(_pattern)]
OneOrMore = BeforeValidator(several, json_schema_input_type=str | list[str])
Names = Annotated[Listed[str], OneOrMore]
"""One text, or a list of texts."""
Whole = Annotated[int, Field(ge=1)]
Wholes = Annotated[
    Listed[Whole], BeforeValidator(several, json_schema_input_type=Whole | list[Whole])
]
_Plain = str | bool | float
Cell = Annotated[str, BeforeValidator(_cell, json_schema_input_type=_Plain)]
"""A value of a table, as text."""
Cells = Annotated[
    Listed[Cell], BeforeValidator(several, json_schema_input_type=_Plain | list[_Plain])
]
Nulls = Annotated[
    Cells, BeforeValidator(_no_switch, json_schema_input_type=str | float | list[_Plain])
]
"""Texts that mean missing."""
Values = Mapping[str, Cells]
"""A study's value = what stands for it in a table."""
Location = Annotated[Path, BeforeValidator(_located, json_schema_input_type=str)]
"""A path, taken from the folder of the file."""


def document(
    path: Path,
    what: str,
    code: str,
    way_out: str = "check the path",
    parse: Callable[[str], Any] = tomllib.loads,
) -> Any:
    """The content of a file of one's own: TOML, or what `parse` reads. UsageError `code` where
    there is none."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            code, f"{what} '{path}' cannot be read ({error.strerror}); {way_out}"
        ) from error
    except (ValueError, RecursionError) as error:
        form = "TOML" if parse is tomllib.loads else "JSON"
        raise UsageError(
            code, f"{what} '{path}' is not valid {form}: {error}; {way_out}"
        ) from error


def load(kind: type[T], path: Path, what: str, code: str, way_out: str = "check the path") -> T:
    """The settings in the TOML file at `path`; every fault at once (UsageError `code`)."""
    return checked(kind, document(path, what, code, way_out), str(path), code, folder=path.parent)


def checked(kind: type[T], raw: Any, where: str, code: str, **context: Any) -> T:
    """The settings that a document holds; `context` is for validators. Every fault at once
    (UsageError `code`)."""
    keys: dict[int, tuple[str, ...]] = {}
    try:
        settings: T = adapter(cast(Any, kind)).validate_python(
            raw, context={**context, "keys": keys}
        )
    except ValidationError as error:
        errors = error.errors(include_url=False)
        faults = [
            f"{where}: {fault}" for e in errors[:MOST_FAULTS] for fault in _sentences(e, raw, keys)
        ]
        if len(errors) > MOST_FAULTS:
            faults.append(f"{where}: and {len(errors) - MOST_FAULTS} faults more")
        raise UsageError(code, *dict.fromkeys(faults)) from error
    return settings


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """pydantic's reader of a kind of file."""
    return TypeAdapter(kind)


_WANTED = {
    "string_type": "a text", "int_type": "a whole number", "float_type": "a number",
    "bool_type": "true or false",
    "date_type": "a date, such as 2027-12-31", "tuple_type": "a list", "dict_type": "a table",
    "mapping_type": "a table",
    "dataclass_type": "a table", "is_instance_of": "a path", "literal_error": "one of {expected}",
    "finite_number": "a finite number",
    "greater_than": "above {gt}", "greater_than_equal": "at least {ge}", "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them", "too_long": "at most {max_length} of them",
}  # fmt: skip
"""pydantic's name of an error -> what the value must be."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def _sentences(error: ErrorDetails, raw: Any, keys: Mapping[int, tuple[str, ...]]) -> list[str]:
    """One of pydantic's errors in words, after the whole path of its key."""
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    if kind in ("unexpected_keyword_argument", "missing"):
        section, key = _path(loc[:-1], raw), loc[-1]
        if kind == "unexpected_keyword_argument":
            known = keys.get(id(_at(loc[:-1], raw)), ())
            near = difflib.get_close_matches(str(key), known, 1)
            hint = (
                f"; did you mean '{near[0]}'?" if near else f"; allowed: {', '.join(sorted(known))}"
            )
            return [
                f"{section} has an unknown key {key!r}{hint}"
                if section
                else f"unknown key {key!r}{hint}"
            ]
        wanted = f"entry number {key + 1}" if isinstance(key, int) else repr(key)
        return [f"{section or 'the file'} lacks {wanted}"]
    broken = context.get("error")
    if isinstance(broken, BrokenRules):
        return [_of(broken, key, text, loc, raw) for key, text in broken.rules]
    if loc[-1:] == ("[key]",):
        return [f"{_path(loc, raw)} {broken or error['msg']}"]
    wanted = _WANTED.get(kind, "").format(**context)
    text = (
        f"must be {wanted}"
        if wanted
        else str(broken or re.sub("^Input should", "must", error["msg"]))
    )
    return [_with_value(_path(loc, raw), error["input"], text, show=kind != "value_error")]


def _of(broken: BrokenRules, key: str, text: str, loc: Sequence[int | str], raw: Any) -> str:
    if not key:
        return _with_value(_path(loc, raw), _at(loc, raw), text)
    return _with_value(_path((*loc, key), raw), getattr(broken.settings, key), text, show=True)


def _with_value(path: str, value: Any, text: str, show: bool = False) -> str:
    """`privacy.epsilon = 0 must be above 0`; a whole table or list is shown where its own form is
    wrong alone."""
    if show or not isinstance(value, list | tuple | Mapping):
        shown = repr(value)
        return f"{path or 'the file'} = {shown if len(shown) < 80 else shown[:77] + '...'} {text}"
    return f"{path or 'the file'} {text}"


def _steps(loc: Sequence[int | str], raw: Any) -> Iterator[tuple[int | str, Any, bool]]:
    """The parts of a location with what the document has there; True: a kind of table (`a number`),
    which is no key."""
    here = raw
    for piece in loc:
        is_kind = False
        if isinstance(here, Mapping) and piece in here:
            here = here[piece]
        elif isinstance(piece, int):
            # a single value in place of a list is its only entry
            if not isinstance(here, list | tuple):
                continue
            here = here[piece] if piece < len(here) else None
        elif piece.startswith("a "):
            is_kind = True
        elif piece == "[key]":
            continue
        else:
            here = None
        yield piece, here, is_kind


def _at(loc: Sequence[int | str], raw: Any) -> Any:
    steps = tuple(_steps(loc, raw))
    return steps[-1][1] if steps else raw


def _path(loc: Sequence[int | str], raw: Any) -> str:
    """`tables.clinical.files`, `feature 'age' (a number): low`."""
    text, between = "", ""
    for piece, value, is_kind in _steps(loc, raw):
        if is_kind and between == ": ":
            text += f" ({piece})"
        elif is_kind:
            continue
        elif isinstance(piece, int):
            name = value.get("name") if isinstance(value, Mapping) else None
            text += f" {name!r}" if isinstance(name, str) else f" number {piece + 1}"
            between = ": "
        else:
            text += between + (
                piece if _BARE.fullmatch(piece) else json.dumps(piece, ensure_ascii=False)
            )
            between = "."
    return text
