"""Configurations: frozen dataclasses whose fields carry their own help.

    @dataclass(frozen=True)
    class Config:
        width: int = field(64, "channels of the first block")
        target: str = field("eps", "what the network predicts", choices=("eps", "x0", "v"))

From these lines come the flags of the command line, the checks on values from outside, and what a checkpoint
says of the model. A setting is a whole number, a number, a switch, a word, a tuple of numbers, or one of
these or None.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .data.dataset import nearest
from .errors import ConfigError

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
_SWITCH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_EMPTY = inspect.Parameter.empty


def field(default: Any, help: str, choices: Iterable | None = None) -> Any:
    """A dataclass field with a default, a line of help and, perhaps, the values it may take."""
    metadata = {"help": help, "choices": tuple(choices) if choices is not None else None}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Spec:
    """One setting: name, default, help, choices, and its type: `kind` is int, float, bool or str; `many` a
    tuple of them; `optional` allows None."""

    name: str
    default: Any
    help: str
    choices: tuple | None
    kind: type
    many: bool = False
    optional: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def word(self) -> str:
        """What the value must be, in words."""
        if self.choices:
            word = "one of " + ", ".join(map(str, self.choices))
        elif self.many:
            word = ("whole numbers" if self.kind is int else "numbers") + " with commas between them, such as 1,2,2"
        else:
            word = _WORDS[self.kind]
        return word + (", or none" if self.optional else "")

    def check(self, value: Any) -> Any:
        """The value in this setting's type (1 may stand for 1.0, a list for a tuple). Raises ConfigError."""
        if value is None and self.optional:
            return None
        if self.many and isinstance(value, (list, tuple)):
            checked: Any = tuple(self._one(v, value) for v in value)
        else:
            checked = self._one(value, value) if not self.many else self._wrong(value)
        if self.choices and checked not in self.choices:
            self._wrong(value)
        return checked

    def parse(self, text: str) -> Any:
        """The value that a piece of text, from the command line, stands for. Raises ConfigError."""
        text = text.strip()
        if self.optional and text.lower() == "none":
            return None
        if self.many:
            return self.check(tuple(self._from(part, text) for part in text.split(",") if part.strip()))
        return self.check(self._from(text, text))

    def _from(self, part: str, text: str) -> Any:
        if self.kind is bool:
            return _SWITCH[part.lower()] if part.lower() in _SWITCH else self._wrong(text)
        try:
            return self.kind(part)
        except ValueError:
            return self._wrong(text)

    def _one(self, value: Any, whole: Any) -> Any:
        if self.kind is float and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        return value if type(value) is self.kind and self.kind is not float else self._wrong(whole)

    def _wrong(self, value: Any) -> typing.NoReturn:
        near = nearest(str(value), map(str, self.choices)) if self.choices else ""
        raise ConfigError(f"{self.name} must be {self.word}, not {value!r}{near or '.'}")


def specs(source: Any) -> dict[str, Spec]:
    """The settings of a configuration class, or the keyword-only options of a function, by name.

    A function's help is the lines "option: text" of its docstring. Raises TypeError for a type that cannot be
    a flag.
    """
    if dataclasses.is_dataclass(source):
        hints = typing.get_type_hints(source)
        return {
            f.name: _spec(f.name, hints[f.name], f.default, f.metadata.get("help", ""), f.metadata.get("choices"))
            for f in dataclasses.fields(source)
        }
    found, doc = {}, inspect.getdoc(source) or ""
    space = {**vars(typing), **getattr(source, "__globals__", {})}
    for p in inspect.signature(source).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            hint = eval(p.annotation, space) if isinstance(p.annotation, str) else p.annotation
            hint = type(p.default) if hint is _EMPTY else hint
            line = re.search(rf"^\s*{re.escape(p.name)}: (.+(?:\n[ \t]+\S.*)*)", doc, re.M)
            found[p.name] = _spec(p.name, hint, p.default, " ".join(line[1].split()).rstrip(".") if line else "", None)
    return found


def _spec(name: str, hint: Any, default: Any, help: str, choices: tuple | None) -> Spec:
    inner = hint
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)
    if optional:
        rest = [a for a in typing.get_args(hint) if a is not type(None)]
        inner = rest[0] if len(rest) == 1 else None
    many = typing.get_origin(inner) is tuple
    if many:
        kinds = {a for a in typing.get_args(inner) if a is not Ellipsis}
        inner = kinds.pop() if len(kinds) == 1 else None
    if typing.get_origin(inner) is typing.Literal:
        choices = typing.get_args(inner)
        inner = type(choices[0])
    if inner not in _WORDS or many and inner not in (int, float):
        raise TypeError(
            f"the setting {name!r} is declared {hint!r}; it can be int, float, bool, str, a tuple of int or "
            "float, a Literal, or one of these | None."
        )
    if default in (dataclasses.MISSING, _EMPTY):
        raise TypeError(f"the setting {name!r} needs a default.")
    return Spec(name, default, help, choices, inner, many, optional)


# ---- flags


def add_flags(
    parser: argparse._ActionsContainer,
    source: Any,
    presets: Mapping[str, Mapping] | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Give the parser a flag for each setting of a configuration class, or keyword-only option of a function.

    The help shows the default and where a preset differs from it. Flags that were not given leave nothing
    behind: `given` collects the rest. Raises TypeError if a setting has the name of a flag that the parser
    has already.
    """
    for spec in specs(source).values():
        if spec.name in skip:
            continue
        shown = [f"default {show(spec.default)}"]
        shown += [
            f"{k}: {show(v[spec.name])}"
            for k, v in (presets or {}).items()
            if spec.name in v and v[spec.name] != spec.default
        ]
        about = f"{spec.help} ({'; '.join(shown)})".strip().replace("%", "%%")
        options: dict[str, Any] = {"dest": "field." + spec.name, "default": argparse.SUPPRESS, "help": about}
        if spec.kind is bool and not spec.many and not spec.optional:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = _argument(spec)
            word = {int: "N", float: "X", bool: "yes|no", str: "WORD"}[spec.kind]
            shape = "{" + ",".join(map(str, spec.choices)) + "}" if spec.choices else word
            options["metavar"] = f"{word},{word},…" if spec.many else shape
        try:
            parser.add_argument(spec.flag, **options)
        except argparse.ArgumentError:
            raise TypeError(
                f"the setting {spec.name!r} has the name of a flag of the command itself; rename it."
            ) from None


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings whose flags were given, by name."""
    return {k.removeprefix("field."): v for k, v in vars(arguments).items() if k.startswith("field.")}


def _argument(spec: Spec) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return spec.parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(spec.name + " ")) from None

    return parse


def show(value: Any) -> str:
    """A value as it would be typed after its flag."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


# ---- values


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence that answers an unknown name: the nearest one, and all there are."""
    near, names = nearest(name, known), ", ".join(known)
    return f"there is no {what} {name!r}{near + ' There' if near else '; there'} are: {names or 'none'}."


def build(Config: type, preset: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None) -> Any:
    """A configuration: the defaults, changed by a preset, changed by overrides; every value checked.

    Raises ConfigError for an unknown name (with the nearest one), a wrong type, a value that is not among the
    choices, or what the class's own __post_init__ refuses.
    """
    known, values = specs(Config), {**(preset or {}), **(overrides or {})}
    for name in values:
        if name not in known:
            raise ConfigError(unknown("setting", name, known))
    try:
        return Config(**{name: known[name].check(value) for name, value in values.items()})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def choose_preset(presets: Mapping[str, Mapping], name: str) -> Mapping[str, Any]:
    """The preset of that name. Raises ConfigError, with the nearest name, for an unknown one."""
    if name not in presets:
        raise ConfigError(unknown("preset", name, presets))
    return presets[name]


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as JSON knows them: tuples become lists."""
    return {
        f.name: list(v) if isinstance(v := getattr(config, f.name), tuple) else v for f in dataclasses.fields(config)
    }


def from_dict(Config: type, values: Any) -> Any:
    """The inverse of `to_dict`, strict: every setting must be there, and no other. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"a configuration is a table of settings, not {values!r}.")
    missing = [name for name in specs(Config) if name not in values]
    if missing:
        raise ConfigError(f"the configuration lacks {', '.join(missing)}; it was written by another version.")
    return build(Config, None, values)


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two tables of settings: ["width is 64, not 32", …]; lists and tuples are alike."""

    def plain(v):
        return list(v) if isinstance(v, tuple) else v

    names = dict.fromkeys([*saved, *wanted])
    return [
        f"{k} is {_word(saved, k)}, not {_word(wanted, k)}"
        for k in names
        if k not in saved or k not in wanted or plain(saved[k]) != plain(wanted[k])
    ]


def _word(values: Mapping[str, Any], name: str) -> str:
    return show(values[name]) if name in values else "absent"
