"""Answers and errors of clouds, payment, chat, search, telephony, brokers and databases.

Labels are a person's, by what the services' pages say; what was cut off after it was sent is
outcome-unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .error_cases import Label, Odd, P, R, T, Template, U, copied, saying


def _pay(type_: str, code: str | None, message: str) -> Any:
    return {"error": {"type": type_, "code": code, "message": message, "doc_url": "x"}}


def _cloud(code: str, message: str) -> Any:
    return {"error": {"code": code, "message": message, "innererror": None}}


def _search(type_: str, reason: str, status: int) -> Any:
    return {"error": {"root_cause": [], "type": type_, "reason": reason}, "status": status}


ANSWERS: Final[tuple[tuple[str, int, Any, Label], ...]] = (
    ("azure", 400, _cloud("content_filter", "The response was filtered"), P),
    ("azure", 400, _cloud("OperationNotSupported", "does not work with the model"), P),
    ("azure", 401, _cloud("401", "Access denied due to invalid subscription key"), P),
    ("azure", 403, _cloud("Forbidden", "Public access is disabled"), P),
    ("azure", 404, _cloud("DeploymentNotFound", "The API deployment is not there"), P),
    ("azure", 408, _cloud("Timeout", "The operation was timeout."), U),
    ("azure", 409, _cloud("ResourceExists", "already there"), P),
    ("azure", 424, _cloud("DeploymentFailed", "see the log"), P),
    ("azure", 429, _cloud("429", "Requests have exceeded call rate limit"), R),
    ("azure", 429, _cloud("TooManyRequests", "retry after 7 seconds"), R),
    ("azure", 500, _cloud("InternalServerError", "We could not process it"), T),
    ("azure", 503, _cloud("ServerBusy", "Egress is over the account limit"), T),
    ("azure", 503, _cloud("ServiceUnavailable", "not now"), T),
    ("bedrock", 400, {"__type": "ValidationException", "message": "is blank"}, P),
    ("bedrock", 403, {"__type": "AccessDeniedException", "message": "no access"}, P),
    ("bedrock", 404, {"__type": "ResourceNotFoundException", "message": "no model"}, P),
    ("bedrock", 408, {"__type": "ModelTimeoutException", "message": "took too long"}, U),
    ("bedrock", 424, {"__type": "ModelErrorException", "message": "failed"}, T),
    ("bedrock", 429, {"__type": "ThrottlingException", "message": "wait"}, R),
    ("bedrock", 429, {"__type": "ModelNotReadyException", "message": "not ready"}, T),
    ("bedrock", 500, {"__type": "InternalServerException", "message": "again"}, T),
    ("bedrock", 503, {"__type": "ServiceUnavailableException", "message": "down"}, T),
    ("together", 401, {"error": {"message": "Missing API key", "type": "authentication"}}, P),
    ("together", 402, {"error": {"message": "limit of spend", "type": "payment"}}, P),
    ("together", 404, {"error": {"message": "Unable to access model", "type": "model"}}, P),
    ("together", 422, {"error": {"message": "inputs tokens + max_new_tokens", "type": None}}, P),
    ("together", 429, {"error": {"message": "You have been rate limited", "type": "rl"}}, R),
    ("together", 503, {"error": {"message": "engine is overloaded", "type": "server"}}, T),
    ("together", 524, "error code: 524", U),
    ("pay", 400, _pay("invalid_request_error", "parameter_missing", "amount"), P),
    ("pay", 400, _pay("invalid_request_error", "amount_too_small", "50 cents"), P),
    ("pay", 400, _pay("idempotency_error", None, "keys for other parameters"), P),
    ("pay", 402, _pay("card_error", "card_declined", "The card said no"), P),
    ("pay", 402, _pay("card_error", "expired_card", "expired"), P),
    ("pay", 404, _pay("invalid_request_error", "resource_missing", "No such"), P),
    ("pay", 409, _pay("invalid_request_error", "lock_timeout", "in use by another"), T),
    ("pay", 429, _pay("invalid_request_error", "rate_limit", "Too many"), R),
    ("pay", 500, _pay("api_error", None, "our fault"), T),
    ("chat", 200, {"ok": False, "error": "channel_not_found"}, P),
    ("chat", 200, {"ok": False, "error": "not_authed"}, P),
    ("chat", 200, {"ok": False, "error": "token_revoked"}, P),
    ("chat", 200, {"ok": False, "error": "ratelimited"}, R),
    ("chat", 200, {"ok": False, "error": "internal_error"}, T),
    ("chat", 200, {"ok": False, "error": "service_unavailable"}, T),
    ("search", 400, _search("mapper_parsing_exception", "failed to parse", 400), P),
    ("search", 404, _search("index_not_found_exception", "no such index", 404), P),
    ("search", 409, _search("version_conflict_engine_exception", "newer", 409), P),
    ("search", 429, _search("es_rejected_execution_exception", "rejected", 429), R),
    ("search", 429, _search("circuit_breaking_exception", "Data too large", 429), R),
    ("search", 503, _search("cluster_block_exception", "blocked", 503), T),
    ("search", 503, _search("unavailable_shards_exception", "primary", 503), T),
    ("search", 504, _search("process_cluster_event_timeout_exception", "30s", 504), U),
    ("forge", 401, {"message": "Bad credentials", "documentation_url": "x"}, P),
    ("forge", 403, {"message": "Resource not accessible by integration"}, P),
    ("forge", 403, {"message": "You have exceeded a secondary rate limit"}, R),
    ("forge", 404, {"message": "Not Found"}, P),
    ("forge", 422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]}, P),
    ("forge", 502, {"message": "Server Error"}, T),
    ("graph", 200, {"errors": [{"type": "RATE_LIMITED", "message": "limit"}]}, R),
    ("graph", 200, {"errors": [{"type": "NOT_FOUND", "message": "no node"}]}, P),
    ("graph", 200, {"errors": [{"type": "FORBIDDEN", "message": "no"}]}, P),
    ("graph", 200, {"errors": [{"extensions": {"code": "INTERNAL_SERVER_ERROR"}}]}, T),
    ("phone", 400, {"code": 21211, "message": "Invalid 'To' number", "status": 400}, P),
    ("phone", 429, {"code": 20429, "message": "Too Many Requests", "status": 429}, R),
    ("phone", 503, {"code": 20503, "message": "Service is down", "status": 503}, T),
)
TYPES: Final[tuple[tuple[str, str, Label], ...]] = (
    ("NoServersError", "nats: no servers available for connection", T),
    ("FlushTimeoutError", "nats: flush timeout", U),
    ("BadSubjectError", "nats: invalid subject", P),
    ("MaxPayloadError", "nats: maximum payload exceeded", P),
    ("SlowConsumerError", "nats: slow consumer, messages dropped", R),
    ("NotFoundError", "nats: stream not found", P),
    ("AutoReconnect", "connection closed", U),
    ("NotPrimaryError", "not primary", T),
    ("DuplicateKeyError", "E11000 duplicate key", P),
    ("ServerSelectionTimeoutError", "No servers found yet", T),
    ("OperationFailure", "Authentication failed.", P),
    ("ExecutionTimeout", "operation exceeded time limit", U),
    ("NoHostAvailable", "Unable to connect to any servers", T),
    ("WriteTimeout", "Coordinator node timed out waiting for replica nodes", U),
    ("ReadFailure", "Replica(s) failed to execute read", T),
    ("Unavailable", "Cannot achieve consistency level QUORUM", T),
    ("OverloadedErrorMessage", "Too many in-flight requests", T),
    ("ThrottledError", "please slow down", R),
    ("RateLimitExceededError", "limit", R),
    ("APIConnectionError", "Connection error.", T),
    ("APITimeoutError", "Request timed out.", U),
    ("UnprocessableEntityError", "bad shape", P),
    ("PermissionDeniedError", "no", P),
    ("ServiceUnavailableError", "later", T),
    ("ConcurrentModificationError", "another writer", T),
    ("SchemaMismatchError", "columns differ", P),
    ("LeaseExpiredError", "lease is gone", T),
    ("ModelLoadingError", "still loading", T),
    ("SignatureDoesNotMatchError", "signature", P),
    ("QuotaExceededError", "per minute", R),
)
SAID: Final[tuple[tuple[str, Label], ...]] = (
    ("503 Service Unavailable", T),
    ("HTTP 401: unauthorized", P),
    ("upstream prematurely closed connection while reading response header", U),
    ("too many open files", T),
    ("no space left on device", P),
    ("Name or service not known", P),
    ("TLS handshake timeout", T),
    ("certificate signed by unknown authority", P),
    ("the request was throttled by the gateway", R),
    ("daily message allowance is used up until midnight", R),
    ("command not found: pdftotext", P),
    ("table users has no column named agee", P),
    ("database is locked", T),
    ("canceling statement due to conflict with recovery", T),
    ("context length of 8192 tokens exceeded", P),
    ("Sorry, we are over capacity right now", T),
    ("unknown tool: calculator", P),
    ("argument 'limit' must be a positive integer", P),
    ("the peer reset the stream before it answered", U),
    ("no reply from the device within 5 s", U),
)


def platforms() -> Iterator[Template]:
    """One template per row."""
    for number, (service, status, body, label) in enumerate(ANSWERS):
        text = body if isinstance(body, str) else json.dumps(body)
        answer = {"status": status, "headers": {}, "body": text}
        yield Template(
            "body",
            f"{service} {status} {number}",
            label,
            copied(answer),
            cut_off=label == U,
        )
    for name, text, label in TYPES:
        made = type(name, (Exception,), {"__module__": "client.errors"})
        yield Template("driver", name, label, saying(made, text), cut_off=label == U)
    for text, label in SAID:
        yield Template("wording", text, label, saying(Odd, text), cut_off=label == U)
