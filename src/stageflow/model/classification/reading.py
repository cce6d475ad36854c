"""What can be read of an error, or of a response, without knowing its library: statuses, codes,
headers, messages. Nothing is called but plain accessors, and nothing read raises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DEPTH_MAX: Final = 6
FIELDS_MAX: Final = 200
BODY_MAX: Final = 64 * 1024
_CODE_KEYS: Final = (
    "code",
    "errorcode",
    "reason",
    "errorreason",
    "subcode",
    "errortype",
    "__type",
    "type",
    "errorname",
    "name",
    "status",
    "exception",
    "kind",
    "error",
    "errcode",
    "state",
    "class",
    "category",
)
"""The most telling first."""
_TEXT_KEYS: Final = frozenset(
    "message detail errordescription errormessage msg title description text errmsg details "
    "error faultstring info hint errors".split()
)
_XML: Final = re.compile(r"<(code|message|faultcode|faultstring)>([^<]{1,500})<", re.IGNORECASE)


@dataclass(slots=True)
class Facts:
    """What one link of a chain holds."""

    statuses: list[int] = field(default_factory=list)
    """HTTP, the response's own first."""
    codes: list[tuple[int, str]] = field(default_factory=list)
    """(rank, code) of codes for machines; a low rank tells more."""
    numbers: list[int] = field(default_factory=list)
    """Numeric codes of bodies that are no HTTP status."""
    texts: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: list[float] = field(default_factory=list)
    """What bodies say of how long to wait."""
    flags: list[bool] = field(default_factory=list)
    """What bodies say outright: whether to try again."""
    is_failure: bool = False
    """A body says that the request failed, whatever the status."""

    def code_names(self) -> list[str]:
        """Each code once, the most telling first."""
        return list(dict.fromkeys(code for _, code in sorted(self.codes, key=lambda each: each[0])))


def facts_of(subject: Any) -> Facts:
    """Of an exception, a response, a mapping, or the text of a body."""
    facts = Facts()
    if isinstance(subject, (str, bytes, bytearray)):
        read_body(facts, subject)
    elif isinstance(subject, Mapping):
        _read_mapping(facts, subject)
    else:
        _read_object(facts, subject)
    return facts


def got(subject: Any, name: str) -> Any:
    """An attribute of something foreign; None when there is none, or looking at it raises."""
    try:
        return getattr(subject, name, None)
    except Exception:  # a property of a foreign class; what can't be read says nothing
        return None


def _read_mapping(facts: Facts, given: Mapping[Any, Any]) -> None:
    """A response as a mapping: status, headers, body; or a body itself."""
    keys = {_flat(key): key for key in given}
    status = next(
        (given[keys[k]] for k in ("statuscode", "status", "httpstatus") if k in keys), None
    )
    held = next((keys[k] for k in ("body", "content", "text", "json", "data") if k in keys), None)
    metadata = given.get("ResponseMetadata")
    if isinstance(metadata, Mapping):
        _add_status(facts, metadata.get("HTTPStatusCode"))
        _read_headers(facts, metadata.get("HTTPHeaders"))
    if "headers" in keys or (held is not None and _number(status) is not None):
        _add_status(facts, status)
        _read_headers(facts, given.get(keys.get("headers", "")))
        if held is not None:
            read_body(facts, given[held])
    else:
        read_body(facts, given)


def _read_object(facts: Facts, subject: Any) -> None:
    is_error = isinstance(subject, BaseException)
    response = got(subject, "response")
    for source in (response, subject) if is_error else (subject,):
        if source is None or isinstance(source, BaseException) is not (
            source is subject and is_error
        ):
            continue
        if isinstance(source, Mapping):
            _read_mapping(facts, source)
            continue
        for name in ("status_code", "status", "http_status", "status_int"):
            _add_status(facts, got(source, name))
        _read_headers(facts, got(source, "headers"))
        for name in ("body", "_content", "content", "text", "json_body", "error", "errors"):
            held = got(source, name)
            if isinstance(held, (Mapping, str, bytes, list)):
                read_body(facts, held)
                break
    if is_error:
        for name in ("code", "type", "error_code", "reason", "error_type", "status"):
            _add_code(facts, name, got(subject, name))
        _add_text(facts, got(subject, "message"))
        _add_text(facts, got(subject, "detail"))
        facts.texts += [text for text in subject.args[:4] if isinstance(text, str)]


def read_body(facts: Facts, body: Any) -> None:
    """JSON or XML as text, or already parsed."""
    if isinstance(body, (bytes, bytearray)):
        body = bytes(body[:BODY_MAX]).decode("utf-8", "replace")
    if isinstance(body, str):
        text = body[:BODY_MAX].lstrip("\ufeff \t\r\n")
        if text.startswith("data:"):
            text = text.partition("data:")[2].partition("\n\n")[0].strip()
        if text.startswith(("{", "[")):
            try:
                body = json.loads(text)
            except (ValueError, RecursionError):
                facts.texts.append(text)
                return
        else:
            for tag, said in _XML.findall(text):
                if "code" in tag.lower():
                    _add_code(facts, "code", said)
                else:
                    facts.texts.append(said)
            if text:
                facts.texts.append(re.sub(r"<[^>]*>", " ", text[:4_000]))
            return
    for key, value, depth in _fields(body):
        _take(facts, key, value, depth)


def _fields(body: Any) -> Iterator[tuple[str, Any, int]]:
    """(key, value, depth) of every plain value, breadth first; bounded."""
    todo: list[tuple[str, Any, int]] = [("", body, 0)]
    given = 0
    while todo and given < FIELDS_MAX:
        key, value, depth = todo.pop(0)
        if isinstance(value, Mapping) and depth < DEPTH_MAX:
            todo += [(_flat(k), v, depth + 1) for k, v in list(value.items())[:64]]
        elif isinstance(value, (list, tuple)) and depth < DEPTH_MAX:
            todo += [(key, each, depth + 1) for each in value[:16]]
        else:
            given += 1
            yield key, value, depth


def _take(facts: Facts, key: str, value: Any, depth: int) -> None:
    if key in ("retryable", "isretryable", "shouldretry", "retriable", "canretry"):
        if isinstance(value, bool):
            facts.flags.append(value)
    elif key in ("permanent", "ispermanent", "fatal"):
        if value is True:
            facts.flags.append(False)
    elif key in ("success", "ok", "succeeded"):
        facts.is_failure = facts.is_failure or value is False
    elif key in ("retryafter", "retryafterseconds", "retrydelay", "retryin", "retryafters"):
        delay = seconds(value)
        if delay is not None:
            facts.delay_s.append(delay)
    elif key in ("retryafterms", "retryaftermilliseconds"):
        delay = seconds(value)
        if delay is not None:
            facts.delay_s.append(delay / 1_000)
    else:
        _add_code(facts, key, value)
        if key in _TEXT_KEYS:
            _add_text(facts, value)


def _add_code(facts: Facts, key: str, value: Any) -> None:
    flat = _flat(key)
    if flat not in _CODE_KEYS or isinstance(value, bool):
        return
    rank = _CODE_KEYS.index(flat)
    if isinstance(value, int):
        if 100 <= value < 600:
            facts.statuses.append(int(value))
        else:
            facts.numbers.append(int(value))
    elif isinstance(value, str) and value:
        if value.isdigit() and len(value) == 3:
            facts.statuses.append(int(value))
        elif re.fullmatch(r"-?\d{1,9}", value):
            facts.numbers.append(int(value))
        elif " " not in value.strip() or flat not in ("error", "reason", "status", "type"):
            facts.codes.append((rank, value.strip()))
        else:
            facts.texts.append(value)


def _add_status(facts: Facts, value: Any) -> None:
    number = _number(value)
    if number is not None and 100 <= number < 600:
        facts.statuses.append(number)


def _add_text(facts: Facts, value: Any) -> None:
    if isinstance(value, str) and value:
        facts.texts.append(value)


def _read_headers(facts: Facts, headers: Any) -> None:
    items = got(headers, "items")
    if items is None:
        return
    try:
        pairs = list(items())[:200]
    except Exception:  # a foreign mapping; what can't be read says nothing
        return
    for name, value in pairs:
        facts.headers.setdefault(_text(name).lower(), _text(value))


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _flat(key: Any) -> str:
    text = str(key).lower()
    return "__type" if text == "__type" else re.sub(r"[_\-\s.]", "", text)


def _number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    return int(value) if isinstance(value, str) and value.isdigit() else None


_SPAN: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def seconds(value: Any) -> float | None:
    """12, "12", "1.5s", "6m0s", "250ms", {"seconds": 3, "nanos": 0}; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value) if 0 <= value < 1e9 else None
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text) if len(text) < 16 else None
    match = _SPAN.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    hours, minutes, secs, millis = (float(part or 0) for part in match.groups())
    return hours * 3_600 + minutes * 60 + secs + millis / 1_000
