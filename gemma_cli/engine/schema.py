"""A JSON Schema that somebody wrote: what is wrong with it, and where, before any model loads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from gemma_cli.errors import UsageError

_LARGEST = 1024 * 1024  # characters
_EXACT = 2**53  # the compiler rounds larger numbers, and crashes on -2**63
_LARGEST_FACTOR = 200_000  # of multipleOf; a million takes the compiler 8 s and 300 MiB

# Keywords by what they hold. JSON Schema 2020-12, and of older drafts what is still written.
_ONE = {
    *("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if"),
    *("items", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
}
_MANY = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
_NAMED = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
_OTHER = {
    *(
        "$anchor",
        "$comment",
        "$dynamicAnchor",
        "$dynamicRef",
        "$id",
        "$ref",
        "$schema",
        "$vocabulary",
    ),
    *("const", "contentEncoding", "contentMediaType", "default", "dependentRequired", "deprecated"),
    *(
        "description",
        "enum",
        "example",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
    ),
    *(
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
    ),
    *("minLength", "minProperties", "minimum", "multipleOf", "pattern", "readOnly", "required"),
    *("title", "type", "uniqueItems", "writeOnly"),
}
_DEFINITIONS = ("$defs", "definitions")  # the compiler looks at those that are referred to
_KEYWORDS = _ONE | _MANY | _NAMED | _OTHER

Check = Callable[[Any], str]
"""A schema to what is wrong with it, "" for nothing."""


def parse_schema(text: str, check: Check) -> Any:
    """A schema's JSON as Python values; UsageError names the first fault and its place.

    check: what the grammar's own compiler says.
    """
    if len(text) > _LARGEST:
        raise UsageError(f"the schema is too large: {len(text):,} characters, {_LARGEST:,} at most")
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"the schema is not JSON: {error.msg} ({place})") from error
    except RecursionError as error:
        raise UsageError("the schema is nested too deeply") from error
    except ValueError as error:  # more digits than Python reads
        raise UsageError("the schema holds a number that is too long") from error
    if not isinstance(schema, dict | bool):
        raise UsageError("the schema must be a JSON object (or true)", _EXAMPLE)
    if schema is False:
        raise UsageError("no answer satisfies the schema false")
    try:
        for place, part in _walk(schema, "#"):
            _look_at(place, part, schema)
        if fault := check(schema):
            if "recursion limit exceeded" in fault:
                raise RecursionError
            place, fault = _innermost(schema, fault, check)
            raise UsageError(f"the schema cannot be used: {_line(fault)} (at {place})")
        if not _ends(schema):
            raise UsageError("no answer satisfies the schema: it requires itself without end")
    except RecursionError as error:
        raise UsageError("the schema is nested too deeply") from error
    return schema


_EXAMPLE = (
    """for example: --schema '{"type": "object", "properties": {"name": {"type": "string"}}}'"""
)


def _no_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)


def _children(schema: Any) -> Iterator[tuple[str, Any]]:
    """Each direct subschema as (its place below this one, itself)."""
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            yield from ((f"{keyword}/{_escaped(name)}", each) for name, each in value.items())
        elif keyword in _MANY and isinstance(value, list):
            yield from ((f"{keyword}/{number}", each) for number, each in enumerate(value))
        elif keyword in _ONE:
            yield keyword, value


def _walk(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
    yield place, schema
    for below, child in _children(schema):
        yield from _walk(child, f"{place}/{below}")


def _look_at(place: str, schema: Any, root: Any) -> None:
    """Raise UsageError for what the grammar's compiler would let pass or not explain."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise UsageError(f"the schema's part at {place} must be an object, true or false")
    for keyword in schema:
        if keyword not in _KEYWORDS and not keyword.startswith("x-"):
            raise UsageError(
                f"unknown keyword '{keyword}' in the schema (at {place})", _near(keyword)
            )
        if keyword in _DEFINITIONS and not isinstance(schema[keyword], dict):
            raise UsageError(f"{keyword} must be an object (at {place})")
        if (number := _too_large(keyword, schema[keyword])) is not None:
            raise UsageError(
                f"{keyword} has the number {str(number)[:40]}; beyond {_EXACT} none is exact "
                f"(at {place})"
            )
    multiples = list(_multiples(schema, root, set()))
    if math.lcm(*map(_hard_factor, multiples)) > _LARGEST_FACTOR:
        said = " and ".join(map(str, dict.fromkeys(multiples)))
        raise UsageError(f"multipleOf {said} takes too long to be checked (at {place})")
    reference = schema.get("$ref")
    if reference is None:
        return
    if not isinstance(reference, str):
        raise UsageError(f"$ref must be a text (at {place})")
    if not reference.startswith("#"):
        raise UsageError(
            f"$ref to another document is not followed: {reference} (at {place})",
            "put that schema below $defs, and refer to it: #/$defs/NAME",
        )
    if _reference(schema) and _resolve(reference, root) is None:
        raise UsageError(f"$ref leads nowhere: {reference} (at {place})")


def _too_large(keyword: str, value: Any) -> float | None:
    """The number in a keyword's value that its answers could not be held to, if there is one."""
    if keyword in ("const", "enum") and isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return next((n for part in parts if (n := _too_large(keyword, part)) is not None), None)
    if not isinstance(value, int | float):
        return None
    low = -_EXACT if keyword in ("const", "enum", "maximum", "exclusiveMaximum") else None
    high = _EXACT if keyword in ("const", "enum", "minimum", "exclusiveMinimum") else None
    within = (low is None or value >= low) and (high is None or value <= high)
    return None if within and abs(value) != float("inf") else value


def _multiples(schema: Any, root: Any, followed: set[str]) -> Iterator[float]:
    """Every multipleOf that a value must satisfy at once. followed: references, each once."""
    if not isinstance(schema, dict):
        return
    multiple = schema.get("multipleOf")
    if isinstance(multiple, int | float) and multiple:
        yield multiple
    reference = _reference(schema)
    if reference and reference not in followed:
        followed.add(reference)
        yield from _multiples(_resolve(reference, root), root, followed)
    parts = schema.get("allOf")
    for part in parts if isinstance(parts, list) else ():
        yield from _multiples(part, root, followed)


def _hard_factor(multiple: float) -> int:
    """A whole number without the zeros at its end, which are quickly checked; 1 for others."""
    rest = abs(int(multiple)) if multiple == multiple // 1 else 1
    while rest and rest % 10 == 0:
        rest //= 10
    return rest or 1


def _near(keyword: str) -> str | None:
    import difflib

    near = difflib.get_close_matches(keyword, _KEYWORDS, n=1)
    return f"probably meant: {near[0]}" if near else None


def _resolve(reference: str, root: Any) -> Any:
    """What a JSON pointer with a leading # leads to; None: nothing."""
    from urllib.parse import unquote

    found = root
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _ends(schema: Any) -> bool:
    """Can some value satisfy it with finitely many parts?

    Only what a value must have is followed, so False is certain and True is not.
    """
    targets = _targets(schema)
    ending: set[str] = set()
    grew = True
    while grew:  # those of the last round may end what leads to them
        grew = False
        for reference in reversed(targets):  # what is led to was found later
            if reference not in ending and _may_end(targets[reference], ending):
                ending.add(reference)
                grew = True
    return _may_end(schema, ending)


def _targets(root: Any) -> dict[str, Any]:
    """What each reference below a schema leads to, and each below that."""
    targets: dict[str, Any] = {}
    waiting = [root]
    while waiting:
        for _, part in _walk(waiting.pop(), ""):
            reference = _reference(part)
            if reference and reference not in targets:
                targets[reference] = _resolve(reference, root)
                waiting.append(targets[reference])
    return targets


def _reference(schema: Any) -> str:
    """The reference of a schema, "" for none; one to an anchor is none."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        return reference
    return ""


def _may_end(schema: Any, ending: set[str]) -> bool:
    """As _ends, when of the references those in ending do."""
    if not isinstance(schema, dict):
        return True
    reference = _reference(schema)
    if reference and reference not in ending:
        return False
    ways = [schema[name] for name in ("anyOf", "oneOf") if isinstance(schema.get(name), list)]
    if any(way and not any(_may_end(each, ending) for each in way) for way in ways):
        return False
    return all(_may_end(part, ending) for part in _needed(schema))


def _needed(schema: dict[str, Any]) -> Iterator[Any]:
    """The parts that every value of a schema must satisfy."""
    yield from schema.get("allOf") or ()
    if schema.get("type") == "object":
        properties = schema.get("properties") or {}
        yield from (properties.get(name) for name in schema.get("required") or ())
    count = schema.get("minItems")
    if schema.get("type") == "array" and isinstance(count, int) and count > 0:
        first = schema.get("prefixItems") or ()
        yield from first[:count]
        if len(first) < count:
            yield schema.get("items")


def _innermost(schema: Any, fault: str, check: Check) -> tuple[str, str]:
    """The deepest part that is at fault by itself: (its place, its fault)."""
    place, shared = "#", {}
    if isinstance(schema, dict):
        shared = {name: schema[name] for name in _DEFINITIONS if name in schema}
    deeper = True
    while deeper:
        deeper = False
        for below, child in _children(schema):
            alone = {**shared, **child} if isinstance(child, dict) else child
            if child is not False and (said := check(alone)) and "does not exist" not in said:
                schema, fault, place = child, said, f"{place}/{below}"
                deeper = True
                break
    return place, fault


def _line(fault: str) -> str:
    """The compiler's message in one line of ours."""
    fault = fault.splitlines()[-1].removeprefix("error: ") if "\n" in fault else fault
    if fault.startswith("oneOf "):
        return "the alternatives of oneOf may overlap, which is not supported; anyOf is"
    if fault.startswith("Failed to generate regex for "):
        return "the limits of a number are too large"
    if fault == "decimal literal invalid":
        return "the limit of a length is too large"
    if "Regex is empty" in fault:
        return "what it says of a text cannot all hold at once"
    if fault.startswith("Unimplemented keys: "):
        names = ", ".join(json.loads(fault.removeprefix("Unimplemented keys: ")))
        return f"the keyword {names} is not supported"
    return fault[:1].lower() + fault[1:]
