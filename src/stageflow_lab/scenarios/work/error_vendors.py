"""Answers and errors of model hosts, mail, shops, wikis, object stores, queues and tools.

Labels are a person's, by what the services' pages say; what was cut off after it was sent is
outcome-unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .error_cases import Label, Odd, P, R, T, Template, U, copied, saying


def _grok(code: str, message: str) -> Any:
    return {"code": code, "error": message}


def _replicate(title: str, status: int, detail: str) -> Any:
    return {"title": title, "status": status, "detail": detail, "type": "about:blank"}


def _mail(message: str, field: str | None = None) -> Any:
    return {"errors": [{"message": message, "field": field, "help": None}]}


ANSWERS: Final[tuple[tuple[str, int, Any, Label], ...]] = (
    ("grok", 400, _grok("Client specified an invalid argument", "Incorrect API key"), P),
    ("grok", 401, _grok("unauthenticated:bad-credentials", "no"), P),
    ("grok", 403, _grok("The caller does not have permission", "team blocked"), P),
    ("grok", 404, _grok("Some requested entity was not found", "no model"), P),
    ("grok", 429, _grok("Some resource has been exhausted", "rps"), R),
    ("grok", 429, _grok("Your team has used all its credits", "buy more"), P),
    ("grok", 500, _grok("Internal error", "stream"), T),
    ("grok", 503, _grok("The service is currently unavailable", "model at capacity"), T),
    ("replicate", 401, _replicate("Unauthenticated", 401, "no token"), P),
    ("replicate", 402, _replicate("Insufficient credit", 402, "buy"), P),
    ("replicate", 404, _replicate("Not Found", 404, "the version is not there"), P),
    ("replicate", 422, _replicate("Input validation failed", 422, "prompt"), P),
    ("replicate", 429, _replicate("Request was throttled", 429, "6 per minute"), R),
    ("replicate", 500, _replicate("Internal Server Error", 500, ""), T),
    ("replicate", 502, "<html>bad gateway</html>", T),
    ("hub", 400, {"error": "Bad Request: model is not supported by provider"}, P),
    ("hub", 401, {"error": "Invalid username or password."}, P),
    ("hub", 403, {"error": "This authentication method does not have sufficient permissions"}, P),
    ("hub", 422, {"error": "Input validation error: inputs must have less than 1024 tokens"}, P),
    ("hub", 424, {"error": "Request failed during generation", "error_type": "generation"}, P),
    ("hub", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, T),
    ("hub", 503, {"error": "Model x is currently loading", "estimated_time": 20.0}, T),
    ("hub", 504, {"error": "Model time out"}, U),
    ("vector", 400, {"code": 3, "message": "Vector dimension 3 does not match 1536"}, P),
    ("vector", 403, {"code": 7, "message": "storage limit of the plan"}, P),
    ("vector", 409, {"error": {"code": "ALREADY_EXISTS", "message": "index"}, "status": 409}, P),
    ("vector", 429, {"code": 8, "message": "Request failed. Write unit limit per second"}, R),
    ("vector", 503, {"error": {"code": "UNAVAILABLE"}, "status": 503}, T),
    ("mail", 400, _mail("The from email does not contain a valid address", "from.email"), P),
    ("mail", 401, _mail("The provided authorization grant is invalid, expired, or revoked"), P),
    ("mail", 403, _mail("The from address does not match a verified Sender Identity"), P),
    ("mail", 413, _mail("message is larger than 30 MB"), P),
    ("mail", 429, _mail("too many requests"), R),
    ("mail", 503, _mail("please come back soon"), T),
    ("wiki", 200, {"error": {"code": "ratelimited", "info": "rate"}}, R),
    ("wiki", 200, {"error": {"code": "badtoken", "info": "CSRF"}}, P),
    ("wiki", 200, {"error": {"code": "readonly", "info": "maintenance"}}, T),
    ("wiki", 200, {"error": {"code": "maxlag", "info": "Waiting for a database server"}}, T),
    ("wiki", 200, {"error": {"code": "missingtitle", "info": "no page"}}, P),
    ("shop", 403, {"errors": "This action requires merchant approval for read_orders scope."}, P),
    ("shop", 423, {"errors": "This shop is locked"}, T),
    ("shop", 429, {"errors": "Exceeded 2 calls per second for api client."}, R),
    ("shop", 430, {"errors": "security rejection"}, R),
    ("shop", 200, {"errors": [{"extensions": {"code": "MAX_COST_EXCEEDED"}}]}, P),
    ("shop", 200, {"errors": [{"extensions": {"code": "THROTTLED"}}]}, R),
    ("dns", 200, {"success": False, "errors": [{"code": 10000, "message": "Authentication"}]}, P),
    ("dns", 429, {"success": False, "errors": [{"code": 971, "message": "throttling"}]}, R),
    ("cloud", 400, "<Error><Code>InvalidBucketName</Code></Error>", P),
    ("cloud", 404, "<Error><Code>NoSuchKey</Code></Error>", P),
    ("cloud", 400, "<Error><Code>EntityTooLarge</Code></Error>", P),
    ("cloud", 403, "<Error><Code>SignatureDoesNotMatch</Code></Error>", P),
    ("cloud", 409, "<Error><Code>OperationAborted</Code></Error>", T),
    ("cloud", 500, "<Error><Code>InternalError</Code></Error>", T),
    ("cloud", 412, "<Error><Code>PreconditionFailed</Code></Error>", P),
    ("table", 400, {"__type": "ConditionalCheckFailedException"}, P),
    ("table", 400, {"__type": "LimitExceededException"}, R),
    ("table", 400, {"__type": "TransactionConflictException"}, T),
    ("table", 400, {"__type": "ItemCollectionSizeLimitExceededException"}, P),
    ("table", 400, {"__type": "UnrecognizedClientException"}, P),
    ("queue", 400, {"__type": "AWS.SimpleQueueService.NonExistentQueue"}, P),
    ("queue", 400, {"__type": "KMS.ThrottlingException"}, R),
    ("tool", 200, {"jsonrpc": "2.0", "id": 2, "error": {"code": -32601, "message": "no"}}, P),
    ("tool", 200, {"jsonrpc": "2.0", "id": 2, "error": {"code": -32603, "message": "x"}}, T),
)
TYPES: Final[tuple[tuple[str, str, Label], ...]] = (
    ("MessageNotDeliveredError", "delivery was not confirmed in time", U),
    ("ChannelClosedByBroker", "(404, 'NOT_FOUND - no queue jobs')", P),
    ("ConnectionClosedByBroker", "(320, 'CONNECTION_FORCED - node is going down')", U),
    ("AMQPConnectionError", "could not connect", T),
    ("UnroutableError", "1 unroutable message(s) returned", P),
    ("EtcdNoLeader", "etcdserver: no leader", T),
    ("EtcdCompacted", "required revision has been compacted", P),
    ("InvalidPathError", "path", P),
    ("ResourceExistsError", "exists", P),
    ("ClientAuthenticationError", "login", P),
    ("ServiceRequestTimeoutError", "connect timed out", T),
    ("ServiceResponseTimeoutError", "read timed out", U),
    ("IncompleteReadError", "x", U),
    ("TooManyRequestsError", "x", R),
    ("NotAuthorizedError", "x", P),
    ("InvalidParameterValueError", "x", P),
    ("ExpiredTokenError", "x", P),
    ("BackendUnavailableError", "x", T),
    ("MaintenanceModeError", "x", T),
    ("DeadlockError", "x", T),
    ("OptimisticLockError", "x", T),
    ("UniqueViolationError", "x", P),
    ("TokenLimitExceededError", "context is over 8k", P),
    ("ContentPolicyViolationError", "x", P),
    ("EngineOverloadedError", "x", T),
)
SAID: Final[tuple[tuple[str, Label], ...]] = (
    ("You are not allowed to use this voice", P),
    ("Please slow your requests", R),
    ("server is shutting down, come back later", T),
    ("error 1040: Too many connections", T),
    ("database disk image is malformed", P),
    ("SSL: CERTIFICATE_VERIFY_FAILED", P),
    ("Temporary failure in name resolution", T),
    ("the write was sent but no acknowledgement arrived", U),
    ("Quota for embeddings per minute was used", R),
    ("unknown field 'tempreature'", P),
    ("file is not a PDF", P),
    ("there was a problem with our servers", T),
    ("504 Gateway Time-out", U),
    ("stream was reset by the remote side", U),
    ("No module named 'pandas'", P),
    ("browser has disconnected during navigation", U),
    ("the sandbox could not be started in time", T),
    ("expected 3 columns, got 5", P),
)


def vendors() -> Iterator[Template]:
    """One template per row."""
    for number, (service, status, body, label) in enumerate(ANSWERS):
        text = body if isinstance(body, str) else json.dumps(body)
        answer = {"status": status, "headers": {}, "body": text}
        name = f"{service} {status} {number}"
        yield Template("body", name, label, copied(answer), cut_off=label == U)
    for name, text, label in TYPES:
        made = type(name, (Exception,), {"__module__": "client.errors"})
        yield Template("driver", name, label, saying(made, text), cut_off=label == U)
    for text, label in SAID:
        yield Template("wording", text, label, saying(Odd, text), cut_off=label == U)
