"""What the rules were never tuned on: other providers and services, their codes and words.

Labels are a person's, by what the services' pages say; what was cut off after it was sent is
outcome-unknown. Whoever mends a rule for one of these moves it to the other files, and finds new
ones: a set that rules were tuned on shows nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .error_cases import Label, Odd, P, R, T, Template, U, copied, saying


def _fire(code: str | None, type_: str, message: str) -> Any:
    return {"error": {"object": "error", "type": type_, "code": code, "message": message}}


def _problem(slug: str, title: str, status: int) -> Any:
    return {"type": f"https://errors.example/{slug}", "title": title, "status": status}


ANSWERS: Final[tuple[tuple[str, int, Any, Label], ...]] = (
    ("fireworks", 400, _fire("invalid_request", "invalid_request_error", "schema"), P),
    ("fireworks", 401, _fire("UNAUTHORIZED", "error", "The API key you provided is invalid"), P),
    ("fireworks", 402, _fire(None, "error", "account is suspended, monthly spending"), P),
    ("fireworks", 404, _fire("NOT_FOUND", "error", "Model not found, inaccessible"), P),
    ("fireworks", 412, _fire("PRECONDITION_FAILED", "error", "account suspended"), P),
    ("fireworks", 429, _fire("RATE_LIMIT", "error", "rate"), R),
    ("fireworks", 500, _fire("INTERNAL", "error", "server"), T),
    ("fireworks", 503, _fire("OVERLOADED", "error", "deployment scaling up from zero"), T),
    ("fireworks", 504, _fire(None, "error", "gateway"), U),
    ("ai21", 401, {"detail": "Forbidden: Bad or missing Api Key"}, P),
    ("ai21", 422, {"detail": [{"loc": ["body"], "msg": "none is not allowed", "type": "t"}]}, P),
    ("ai21", 429, {"detail": "Requests rate limit exceeded. To get more, contact sales"}, R),
    ("ai21", 500, {"detail": "internal"}, T),
    ("ai21", 503, {"detail": "high demand"}, T),
    ("bank", 400, _problem("invalid-iban", "The IBAN is not valid", 400), P),
    ("bank", 403, _problem("insufficient-scope", "Scope", 403), P),
    ("bank", 409, _problem("duplicate-payment", "This payment is there already", 409), P),
    ("bank", 422, _problem("insufficient-funds", "Not covered", 422), P),
    ("bank", 429, _problem("too-many-requests", "Slow", 429), R),
    ("bank", 503, _problem("planned-maintenance", "Back at six", 503), T),
    ("tickets", 403, {"errorMessages": ["You do not have permission to see it"]}, P),
    ("tickets", 400, {"errorMessages": ["Field 'x' does not exist"], "errors": {}}, P),
    ("tickets", 429, {"message": "Rate limited", "retryAfter": 12}, R),
    ("maps", 200, {"status": "OVER_DAILY_LIMIT", "error_message": "billing is off"}, P),
    ("maps", 200, {"status": "INVALID_REQUEST", "results": []}, P),
    ("maps", 200, {"status": "UNKNOWN_ERROR", "error_message": "may succeed again"}, T),
    ("ads", 400, {"error": {"code": 190, "type": "OAuthException", "message": "expired"}}, P),
    ("ads", 400, {"error": {"code": 4, "message": "Application request limit reached"}}, R),
    ("ads", 500, {"error": {"code": 2, "is_transient": True, "message": "try later"}}, T),
    ("store", 507, {"error_summary": "insufficient_space/", "error": {".tag": "path"}}, P),
    ("store", 409, {"error_summary": "path/not_found/.."}, P),
    ("store", 429, {"error_summary": "too_many_write_operations/", "error": {"retry_after": 1}}, R),
    ("git", 409, {"message": "Conflict", "error": "branch protected"}, P),
    ("registry", 401, {"errors": [{"code": "UNAUTHORIZED", "message": "login"}]}, P),
    ("registry", 404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest"}]}, P),
    ("registry", 429, {"errors": [{"code": "TOOMANYREQUESTS", "message": "pull"}]}, R),
    ("cluster", 403, {"kind": "Status", "reason": "Forbidden", "code": 403}, P),
    ("cluster", 404, {"kind": "Status", "reason": "NotFound", "code": 404}, P),
    ("cluster", 409, {"kind": "Status", "reason": "AlreadyExists", "code": 409}, P),
    ("cluster", 429, {"kind": "Status", "reason": "TooManyRequests", "code": 429}, R),
    ("cluster", 500, {"kind": "Status", "reason": "InternalError", "code": 500}, T),
    ("cluster", 503, {"kind": "Status", "reason": "ServiceUnavailable", "code": 503}, T),
    ("cluster", 504, {"kind": "Status", "reason": "Timeout", "code": 504}, U),
    ("cluster", 422, {"kind": "Status", "reason": "Invalid", "code": 422}, P),
    ("cluster", 410, {"kind": "Status", "reason": "Expired", "code": 410}, P),
    ("stream", 400, {"__type": "KMSAccessDeniedException"}, P),
    ("stream", 400, {"__type": "ResourceInUseException"}, T),
    ("stream", 400, {"__type": "KMSThrottlingException"}, R),
    ("stream", 400, {"__type": "SerializationException"}, P),
    ("stream", 413, {"__type": "RequestEntityTooLargeException"}, P),
    ("oauth", 400, {"error": "invalid_grant", "error_description": "revoked"}, P),
    ("oauth", 400, {"error": "unsupported_grant_type"}, P),
    ("oauth", 400, {"error": "slow_down"}, R),
    ("oauth", 503, {"error": "temporarily_unavailable"}, T),
    ("oauth", 401, {"error": "invalid_client"}, P),
    ("rpc", 200, {"jsonrpc": "2.0", "error": {"code": -32700, "message": "parse"}, "id": 1}, P),
    ("rpc", 200, {"jsonrpc": "2.0", "error": {"code": -32600, "message": "x"}, "id": 1}, P),
    ("hook", 200, {"success": False, "error": {"code": "quota_exceeded"}}, R),
    ("hook", 200, {"success": False, "error": {"code": "upstream_timeout"}}, U),
    ("hook", 200, {"success": False, "error": {"code": "unsupported_event"}}, P),
)
TYPES: Final[tuple[tuple[str, str, Label], ...]] = (
    ("BadRequestError", "x", P),
    ("InvalidRequestError", "x", P),
    ("AuthenticationError", "x", P),
    ("PermissionError_", "denied", P),
    ("NotFoundError", "x", P),
    ("ConflictError", "x", P),
    ("RateLimitError", "x", R),
    ("InternalServerError", "x", T),
    ("APIStatusTimeout", "read timeout", U),
    ("ContextWindowExceededError", "x", P),
    ("BudgetExceededError", "budget has been exceeded", P),
    ("GatewayTimeoutError", "x", U),
    ("ThrottlingError", "x", R),
    ("ServiceBusyError", "x", T),
    ("TransientError", "x", T),
    ("RetryableError", "x", T),
    ("SerializationFailureError", "x", T),
    ("ForeignKeyViolationError", "x", P),
    ("NotNullViolationError", "x", P),
    ("TooManyConnectionsError", "x", T),
    ("ValidationError", "x", P),
    ("UnsupportedOperationError", "x", P),
    ("ServerDisconnectedError", "x", U),
    ("ConnectionResetByPeerError", "x", U),
    ("ConnectionRefusedByServerError", "x", T),
)
SAID: Final[tuple[tuple[str, Label], ...]] = (
    ("HTTP 429: Too Many Requests", R),
    ("401 Client Error: Unauthorized for url: https://x", P),
    ("404 Client Error: Not Found for url: https://x", P),
    ("503 Server Error: Service Unavailable for url: https://x", T),
    ("Request timed out.", U),
    ("Connection aborted.", U),
    ("Max retries exceeded with url: / (Caused by NewConnectionError: Connection refused)", T),
    ("model 'x' is not available in your region", P),
    ("the key 'abc' was revoked", P),
    ("you hit the rate limit, wait 3 s", R),
    ("The server is overloaded", T),
    ("Missing required parameter: 'messages'", P),
    ("could not translate host name to address: Temporary failure in name resolution", T),
    ("terminating connection due to administrator command", T),
    ("password authentication failed for user", P),
    ("duplicate key value violates unique constraint", P),
    ("deadlock detected", T),
    ("SSL connection has been closed unexpectedly", U),
    ("The tool returned no answer before its time was over", U),
    ("Tool arguments did not match the declared shape", P),
)


def unseen() -> Iterator[Template]:
    """One template per row."""
    for number, (service, status, body, label) in enumerate(ANSWERS):
        answer = {"status": status, "headers": {}, "body": json.dumps(body)}
        name = f"{service} {status} {number}"
        yield Template("body", name, label, copied(answer), unseen=True, cut_off=label == U)
    for name, text, label in TYPES:
        made = type(name, (Exception,), {"__module__": "client.errors"})
        yield Template("driver", name, label, saying(made, text), unseen=True, cut_off=label == U)
    for text, label in SAID:
        yield Template("wording", text, label, saying(Odd, text), unseen=True, cut_off=label == U)
