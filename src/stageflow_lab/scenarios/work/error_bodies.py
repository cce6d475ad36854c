"""Answers of model providers, and of services whose status misleads.

The shapes are those of the providers' public pages on errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .error_cases import Label, P, R, T, Template, U

Row = tuple[int, str, Any, Label]
"""Status, name, body, kind."""


def _openai(type_: str, code: str | None, message: str) -> Any:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def _anthropic(type_: str, message: str) -> Any:
    return {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"}


def _google(code: int, status: str, message: str, *details: Any) -> Any:
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


_RETRY_INFO: Final = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "19s"}

OPENAI: Final[tuple[Row, ...]] = (
    (400, "bad", _openai("invalid_request_error", None, "Unknown parameter: 'foo'."), P),
    (400, "long", _openai("invalid_request_error", "context_length_exceeded", "Too long"), P),
    (400, "filter", _openai("invalid_request_error", "content_filter", "filtered"), P),
    (401, "key", _openai("invalid_request_error", "invalid_api_key", "Incorrect API key"), P),
    (403, "region", _openai("request_forbidden", "unsupported_country_region_territory", "No"), P),
    (404, "model", _openai("invalid_request_error", "model_not_found", "No such model"), P),
    (429, "rate", _openai("requests", "rate_limit_exceeded", "Rate limit reached for gpt"), R),
    (429, "tokens", _openai("tokens", "rate_limit_exceeded", "Please try again in 6s."), R),
    (429, "money", _openai("insufficient_quota", "insufficient_quota", "Check your plan."), P),
    (429, "hard", _openai("insufficient_quota", "billing_hard_limit_reached", "Hard limit"), P),
    (500, "server", _openai("server_error", None, "The server had an error."), T),
    (503, "busy", _openai("server_error", "engine_overloaded", "Overloaded"), T),
)
ANTHROPIC: Final[tuple[Row, ...]] = (
    (400, "bad", _anthropic("invalid_request_error", "messages: at least one is required"), P),
    (401, "key", _anthropic("authentication_error", "invalid x-api-key"), P),
    (402, "billing", _anthropic("billing_error", "check your payment details"), P),
    (403, "denied", _anthropic("permission_error", "may not use this resource"), P),
    (404, "model", _anthropic("not_found_error", "model: nothing"), P),
    (413, "large", _anthropic("request_too_large", "Request exceeds the maximum size"), P),
    (429, "rate", _anthropic("rate_limit_error", "would exceed the rate limit"), R),
    (500, "server", _anthropic("api_error", "Internal server error"), T),
    (504, "slow", _anthropic("timeout_error", "Request timed out while processing"), U),
    (529, "busy", _anthropic("overloaded_error", "Overloaded"), T),
    (200, "stream", _anthropic("overloaded_error", "Overloaded"), T),
)
GOOGLE: Final[tuple[Row, ...]] = (
    (400, "bad", _google(400, "INVALID_ARGUMENT", "Invalid value at 'contents'"), P),
    (400, "state", _google(400, "FAILED_PRECONDITION", "User location is not supported"), P),
    (401, "auth", _google(401, "UNAUTHENTICATED", "Missing a valid API key"), P),
    (403, "denied", _google(403, "PERMISSION_DENIED", "The caller does not have permission"), P),
    (404, "model", _google(404, "NOT_FOUND", "models/x is not found"), P),
    (429, "quota", _google(429, "RESOURCE_EXHAUSTED", "Quota exceeded", _RETRY_INFO), R),
    (499, "left", _google(499, "CANCELLED", "The operation was cancelled."), U),
    (500, "server", _google(500, "INTERNAL", "An internal error has occurred"), T),
    (503, "busy", _google(503, "UNAVAILABLE", "The model is overloaded."), T),
    (504, "slow", _google(504, "DEADLINE_EXCEEDED", "Deadline expired"), U),
)


def _mistral(type_: str, code: str | None, message: Any) -> Any:
    return {"object": "error", "message": message, "type": type_, "param": None, "code": code}


MISTRAL: Final[tuple[Row, ...]] = (
    (429, "rate", _mistral("rate_limited", "1300", "Rate limit exceeded"), R),
    (429, "requests", {"message": "Requests rate limit exceeded"}, R),
    (
        429,
        "tier",
        _mistral("invalid_request_error", None, "Service tier capacity exceeded for this model."),
        R,
    ),
    (400, "model", _mistral("invalid_model", "1500", "Invalid model: mistral-none"), P),
    (400, "role", _mistral("invalid_request_message_order", "3230", "Expected last role User"), P),
    (401, "key", {"detail": "Unauthorized"}, P),
    (401, "gateway", {"message": "Unauthorized", "request_id": "0f"}, P),
    (403, "tier", _mistral("access_denied", "1910", "Not available in your subscription"), P),
    (404, "route", {"message": "no Route matched with those values"}, P),
    (
        422,
        "fields",
        {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]},
        P,
    ),
    (
        422,
        "range",
        _mistral(
            "invalid_request_error",
            None,
            {
                "detail": [
                    {"type": "less_than_equal", "loc": ["body", "temperature"], "msg": "<= 1.5"}
                ]
            },
        ),
        P,
    ),
    (500, "server", _mistral("internal_server_error", "1000", "Service unavailable."), T),
    (502, "gateway", "<html><head><title>502 Bad Gateway</title></head></html>", T),
    (503, "tier", _mistral("unreachable_backend", "1100", "Service tier capacity exceeded"), T),
    (503, "down", {"message": "The upstream server is currently unavailable"}, T),
    (504, "slow", {"message": "The upstream server is timing out"}, U),
)
COHERE: Final[tuple[Row, ...]] = (
    (400, "temperature", {"message": "invalid request: temperature must be between 0 and 1.0"}, P),
    (400, "tokens", {"message": "too many tokens: size limit exceeded by 11326 tokens."}, P),
    (400, "model", {"message": "a model parameter is required for this endpoint."}, P),
    (401, "key", {"message": "invalid api token"}, P),
    (401, "expired", {"message": "Your API key has expired. Please create a production key"}, P),
    (402, "bill", {"message": "Please add or update your payment method to continue"}, P),
    (404, "model", {"message": "model 'x' not found, make sure the correct model ID was used"}, P),
    (422, "shape", {"data": "unprocessable entity", "id": "7c"}, P),
    (
        429,
        "trial",
        {"message": "You are using a Trial key, which is limited to 40 API calls / minute."},
        R,
    ),
    (429, "load", {"message": "We're experiencing high traffic; please wait and try again"}, R),
    (498, "token", {"message": "invalid token"}, P),
    (499, "gone", {"message": "request cancelled by user"}, U),
    (500, "server", {"message": "internal server error, this has been reported"}, T),
    (501, "none", {"message": "not implemented for this model"}, P),
    (503, "down", {"message": "service temporarily unavailable"}, T),
    (504, "slow", {"message": "gateway timeout"}, U),
)
MISLEADING: Final[tuple[tuple[int, dict[str, str], Any, Label], ...]] = (
    (200, {}, {"error": {"type": "rate_limit_error", "message": "slow down"}}, R),
    (200, {}, {"error": {"code": 503, "message": "overloaded"}}, T),
    (200, {}, {"success": False, "error": {"code": "invalid_token", "message": "bad"}}, P),
    (200, {}, {"ok": False, "error": "ratelimited"}, R),
    (200, {}, {"ok": False, "error": "invalid_auth"}, P),
    (200, {}, {"errors": [{"message": "x", "extensions": {"code": "THROTTLED"}}]}, R),
    (200, {}, {"errors": [{"message": "x", "extensions": {"code": "BAD_USER_INPUT"}}]}, P),
    (200, {}, {"status": "OVER_QUERY_LIMIT", "results": []}, R),
    (200, {}, {"status": "REQUEST_DENIED", "error_message": "The key is not valid"}, P),
    (200, {}, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no"}}, P),
    (403, {}, {"error": {"errors": [{"reason": "rateLimitExceeded"}], "code": 403}}, R),
    (403, {}, {"error": {"errors": [{"reason": "userRateLimitExceeded"}], "code": 403}}, R),
    (403, {}, {"error": {"errors": [{"reason": "insufficientPermissions"}]}}, P),
    (403, {"x-ratelimit-remaining": "0"}, {"message": "API rate limit exceeded"}, R),
    (403, {"retry-after": "60"}, {"message": "You have exceeded a secondary limit"}, R),
    (403, {}, "<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>", R),
    (403, {}, "<Error><Code>AccessDenied</Code><Message>Denied</Message></Error>", P),
    (403, {}, {"__type": "com.amazon.coral.service#ThrottlingException"}, R),
    (403, {}, {"code": "RequestLimitExceeded", "message": "Request limit exceeded."}, R),
    (400, {}, {"__type": "ThrottlingException", "message": "Rate exceeded"}, R),
    (400, {}, {"__type": "ProvisionedThroughputExceededException"}, R),
    (400, {}, {"__type": "ValidationException", "message": "malformed input"}, P),
    (400, {}, {"__type": "ExpiredTokenException"}, P),
    (400, {}, "<Error><Code>RequestTimeout</Code></Error>", T),
    (400, {"x-should-retry": "true"}, {"error": {"message": "unlucky"}}, T),
    (400, {}, {"message": "The model is still loading, try again in 20 s"}, T),
    (409, {"x-should-retry": "true"}, {"error": {"message": "conflict"}}, T),
    (409, {}, {"error": {"type": "idempotency_error", "code": "lock_timeout"}}, T),
    (429, {}, {"error": {"message": "Your credit balance is too low"}}, P),
    (429, {}, {"error": {"code": "account_deactivated"}}, P),
    (429, {"retry-after": "2"}, "", R),
    (500, {"x-should-retry": "false"}, {"error": {"message": "no"}}, P),
    (503, {}, "<Error><Code>SlowDown</Code></Error>", R),
    (503, {}, {"error": {"code": "ServerBusy"}}, T),
    (500, {}, {"error": {"code": "OperationTimedOut"}}, U),
)


def bodies() -> Iterator[Template]:
    """One template per row."""
    for provider, rows in (
        ("openai", OPENAI),
        ("anthropic", ANTHROPIC),
        ("google", GOOGLE),
        ("mistral", MISTRAL),
        ("cohere", COHERE),
    ):
        for status, name, body, label in rows:
            yield _answer("body", f"{provider} {status} {name}", status, {}, body, label)
    for number, (status, headers, body, label) in enumerate(MISLEADING):
        name = f"misleading {status} {number}"
        yield _answer("misleading", name, status, headers, body, label)


def _answer(
    family: str,
    name: str,
    status: int,
    headers: dict[str, str],
    body: Any,
    label: Label,
) -> Template:
    text = body if isinstance(body, str) else json.dumps(body)

    def make() -> dict[str, Any]:
        return {"status": status, "headers": headers, "body": text}

    return Template(family, name, label, make, cut_off=label == U)
