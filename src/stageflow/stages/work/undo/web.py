"""Resources of an HTTP service, as an undo log's resource.

Writes are conditional requests (RFC 9110, section 13): `If-Match` with the entity tag that was
read, `If-None-Match: *` for what is not there. A service that gives no strong entity tags can't be
written to without the danger of overwriting others, so it is refused.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from stageflow.model.errors import EffectError
from stageflow.stages.work.undo.records import State
from stageflow.stages.work.undo.resource import Changed, FormLost, WriteRefused, wrong_option

NOT_THERE: Final = (404, 410)
FAILED_CONDITION: Final = (409, 412)
FOR_GOOD: Final = (400, 405, 411, 413, 414, 415, 422)
"""Answers that will be the same next time (RFC 9110, section 15.5)."""
_encoder = msgspec.msgpack.Encoder()


class Body(msgspec.Struct, frozen=True, array_like=True):
    """A representation: what GET gives and PUT takes."""

    type: str
    """Its media type, as in the header `Content-Type`."""
    data: bytes


_body = msgspec.msgpack.Decoder(Body)


class Response(Protocol):
    """As `httpx.Response` has it."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Any: ...
    @property
    def content(self) -> bytes: ...


class Client(Protocol):
    """As `httpx.AsyncClient` has it."""

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes | None
    ) -> Response: ...


class WebResources:
    """Resources of the service at `base`, each under its path; `client` is an httpx.AsyncClient or
    whatever has its `request`, with timeouts below `UndoRules.act_s`.

    To people a resource is a Body; a change takes one, or bytes or a str, which keep the media type
    that is there (`media_type` when nothing is). After a crash a request is waited for
    `in_flight_s`, for it may still arrive. EffectError `undo.no_entity_tag` for a service
    without strong entity tags, `undo.http` for an answer that is neither yes nor "changed".
    """

    def __init__(
        self,
        client: Client,
        base: str,
        *,
        media_type: str = "application/json",
        in_flight_s: float = 10.0,
        name: str | None = None,
    ) -> None:
        if not hasattr(client, "request"):
            raise wrong_option("WebResources", "client", "an httpx.AsyncClient, or such", client)
        if not (isinstance(base, str) and "://" in base):
            raise wrong_option("WebResources", "base", "an address: https://host/path", base)
        self.name = base if name is None else name
        self._client = client
        self._base = base.rstrip("/")
        self._media_type = media_type
        self.in_flight_s = in_flight_s

    async def read(self, key: str) -> State:
        answer = await self._asked("GET", key, {})
        if answer.status_code in NOT_THERE:
            return State(None)
        self._check(answer, key)
        tag = answer.headers.get("ETag")
        if tag is None or tag.startswith("W/"):
            raise EffectError(
                "undo.no_entity_tag",
                f"what is at {key!r} of {self.name!r} can't be written to under a condition",
                field=key,
                expected="a strong entity tag in the header ETag",
                got="none" if tag is None else "a weak one",
                fix="declare changes there as Irreversible(...) and have them permitted",
            )
        return State(_packed(answer), tag)

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        condition = (
            {"If-None-Match": "*"} if expected.content is None else {"If-Match": expected.version}
        )
        if content is None:
            answer = await self._asked("DELETE", key, condition)
            if answer.status_code not in NOT_THERE:
                self._check(answer, key)
            elif expected.content is not None:
                raise Changed
            return State(None)
        body = _body.decode(content)
        headers = {**condition, "Content-Type": body.type}
        answer = await self._asked("PUT", key, headers, body.data)
        self._check(answer, key)
        return await self._written(key, content, answer.headers.get("ETag"))

    async def _written(self, key: str, content: bytes, tag: str | None) -> State:
        """Right after a write: its tag, when the answer gave it or what is there is that still."""
        if tag is not None and not tag.startswith("W/"):
            return State(content, tag)
        try:
            now = await self.read(key)
        except WriteRefused:  # of the reading: the write happened all the same
            return State(content)
        return now if now.content == content else State(content)

    async def encoded(self, value: Any, before: State) -> bytes | None:
        if value is None:
            return None
        if isinstance(value, (bytes, str)):
            data = value.encode() if isinstance(value, str) else value
            there = self.value(before.content)
            value = Body(self._media_type if there is None else there.type, data)
        if not isinstance(value, Body):
            raise EffectError(
                "undo.value",
                f"this is no representation of a resource of {self.name!r}",
                expected="a Body, bytes or a str, or None for nothing",
                got=type(value).__name__,
                fix="timeline.change(pages, 'about', Body('text/plain', b'...'))",
            )
        return _encoder.encode(value)

    def value(self, content: bytes | None) -> Body | None:
        return None if content is None else _body.decode(content)

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        raise FormLost("a representation has one form only")

    async def _asked(
        self, method: str, key: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> Response:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise WriteRefused(
                "undo.path",
                f"{key!r} is no path below {self.name!r}",
                field=key,
                expected="names with '/' between them",
                got="a part that is empty, '.' or '..'",
                fix="timeline.change(pages, 'about/us', ...)",
            )
        path = urllib.parse.quote(key)
        return await self._client.request(
            method, f"{self._base}/{path}", headers=headers, content=content
        )

    def _check(self, answer: Response, key: str) -> None:
        """Raises Changed when the condition did not hold."""
        if answer.status_code in FAILED_CONDITION:
            raise Changed
        if 200 <= answer.status_code < 300:
            return
        kind = WriteRefused if answer.status_code in FOR_GOOD else EffectError
        raise kind(
            "undo.http",
            f"{self.name!r} answered {answer.status_code} for {key!r}",
            field=key,
            expected="2xx, or 412 when somebody else has changed it",
            got=str(answer.status_code),
            fix="look at the service; what was cut off is found and finished when it is back",
        )


def _packed(answer: Response) -> bytes:
    return _encoder.encode(Body(answer.headers.get("Content-Type", ""), answer.content))
