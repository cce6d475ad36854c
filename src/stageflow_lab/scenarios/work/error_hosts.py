"""Answers and errors of another three model providers, a broker and a platform.

Labels are what the services' own pages say of each error, whether it is worth another attempt
(https://openrouter.ai/docs/errors, https://api-docs.deepseek.com/quick_start/error_codes,
https://console.groq.com/docs/errors, https://kafka.apache.org/protocol, Salesforce's "Handle Errors
in REST API"); what timed out after it was sent is outcome-unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .error_cases import Label, Odd, P, R, T, Template, U, copied, saying


def _router(code: int, message: str, **metadata: Any) -> Any:
    return {"error": {"code": code, "message": message, "metadata": metadata}, "user_id": "u"}


def _groq(type_: str, code: str | None, message: str) -> Any:
    return {"error": {"message": message, "type": type_, "code": code}}


ANSWERS: Final[tuple[tuple[str, int, Any, Label], ...]] = (
    ("openrouter", 400, _router(400, "prompt or messages is needed"), P),
    ("openrouter", 401, _router(401, "No auth credentials found"), P),
    ("openrouter", 402, _router(402, "This request requires more credits"), P),
    ("openrouter", 403, _router(403, "Input was flagged", reasons=["violence"]), P),
    ("openrouter", 404, _router(404, "No endpoints found for this model"), P),
    ("openrouter", 408, _router(408, "The request was not finished in time"), T),
    ("openrouter", 429, _router(429, "Provider returned error", raw="upstream is limited"), R),
    ("openrouter", 502, _router(502, "Provider returned error", provider_name="X"), T),
    ("openrouter", 503, _router(503, "No instances to serve you"), T),
    ("openrouter", 200, _router(502, "Provider disconnected"), T),
    ("openrouter", 200, _router(429, "free-models-per-min"), R),
    ("openrouter", 200, _router(402, "Key is over its spend"), P),
    ("deepseek", 400, _groq("invalid_request_error", "invalid_request_error", "wrong format"), P),
    ("deepseek", 401, _groq("authentication_error", "invalid_request_error", "fails"), P),
    ("deepseek", 402, _groq("unknown_error", "invalid_request_error", "Insufficient Balance"), P),
    ("deepseek", 422, _groq("invalid_request_error", None, "temperature: range"), P),
    ("deepseek", 429, _groq("invalid_request_error", None, "Pace your requests"), R),
    ("deepseek", 500, _groq("server_error", None, "issue"), T),
    ("deepseek", 503, _groq("service_unavailable_error", None, "Service is too busy"), T),
    ("groq", 400, _groq("invalid_request_error", "json_validate_failed", "no JSON"), P),
    ("groq", 400, _groq("invalid_request_error", "model_decommissioned", "gone"), P),
    ("groq", 400, _groq("invalid_request_error", "tool_use_failed", "arguments"), P),
    ("groq", 401, _groq("invalid_request_error", "invalid_api_key", "key"), P),
    ("groq", 403, _groq("permissions_error", "model_permission_blocked_org", "blocked"), P),
    ("groq", 404, _groq("invalid_request_error", "model_not_found", "model"), P),
    ("groq", 413, _groq("tokens", "rate_limit_exceeded", "Request too large for TPM"), P),
    ("groq", 424, _groq("failed_dependency", None, "MCP server refused the login"), P),
    ("groq", 429, _groq("requests", "rate_limit_exceeded", "RPD"), R),
    ("groq", 498, _groq("capacity_exceeded", "capacity_exceeded", "Flex tier"), T),
    ("groq", 499, _groq("request_cancelled", None, "by the caller"), U),
    ("groq", 500, _groq("internal_server_error", None, "generic"), T),
    ("groq", 502, _groq("api_error", None, "invalid answer from upstream"), T),
    ("groq", 503, _groq("service_unavailable", None, "over capacity"), T),
    ("salesforce", 400, [{"errorCode": "MALFORMED_QUERY", "message": "unexpected"}], P),
    ("salesforce", 400, [{"errorCode": "INVALID_FIELD", "message": "No such column"}], P),
    ("salesforce", 400, [{"errorCode": "REQUIRED_FIELD_MISSING", "message": "Name"}], P),
    ("salesforce", 400, [{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "exclusive"}], T),
    ("salesforce", 400, [{"errorCode": "DUPLICATE_VALUE", "message": "dup"}], P),
    ("salesforce", 401, [{"errorCode": "INVALID_SESSION_ID", "message": "expired"}], P),
    ("salesforce", 403, [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "Total"}], R),
    ("salesforce", 403, [{"errorCode": "API_DISABLED_FOR_ORG", "message": "off"}], P),
    ("salesforce", 404, [{"errorCode": "NOT_FOUND", "message": "not there"}], P),
    ("salesforce", 500, [{"errorCode": "UNKNOWN_EXCEPTION", "message": "oops"}], T),
    ("salesforce", 503, [{"errorCode": "SERVER_UNAVAILABLE", "message": "busy"}], T),
)
BROKER: Final[tuple[tuple[str, str, Label], ...]] = (
    ("OffsetOutOfRange", "The offset is outside of what the server keeps.", P),
    ("UnknownTopicOrPartition", "This server does not host this topic-partition.", T),
    ("InvalidFetchSize", "The fetch size is invalid.", P),
    ("LeaderNotAvailable", "There is no leader, we are in the middle of an election.", T),
    ("NotLeaderOrFollower", "The broker is not the current leader.", T),
    ("RequestTimedOut", "The request timed out.", U),
    ("ReplicaNotAvailable", "The replica is not available for the partition.", T),
    ("MessageTooLarge", "The message is larger than the server will accept.", P),
    ("NetworkException", "The server disconnected before a response was received.", U),
    ("CoordinatorLoadInProgress", "The coordinator is loading.", T),
    ("CoordinatorNotAvailable", "The coordinator is not available.", T),
    ("NotCoordinator", "This is not the correct coordinator.", T),
    ("InvalidTopic", "The topic name has illegal characters.", P),
    ("RecordListTooLarge", "The batch is larger than the segment size.", P),
    ("NotEnoughReplicas", "There are fewer in-sync replicas than asked for.", T),
    ("InvalidRequiredAcks", "The number of acks is not one of the legal ones.", P),
    ("TopicAuthorizationFailed", "Topic authorization failed.", P),
    ("GroupAuthorizationFailed", "Group authorization failed.", P),
    ("UnsupportedVersion", "The version of the API is not supported.", P),
    ("TopicAlreadyExists", "A topic of this name exists.", P),
    ("InvalidPartitions", "The number of partitions is below 1.", P),
    ("InvalidReplicationFactor", "The factor is larger than the number of brokers.", P),
    ("PolicyViolation", "The request does not satisfy the policy.", P),
    ("UnsupportedSaslMechanism", "The mechanism is not enabled.", P),
    ("InvalidProducerEpoch", "The producer used an old epoch.", P),
    ("ConcurrentTransactions", "Another transaction is under way.", T),
    ("KafkaStorageError", "Disk error when accessing the log on the broker.", T),
    ("ThrottlingQuotaExceeded", "The throttling quota was exceeded.", R),
    ("PreferredLeaderNotAvailable", "The preferred leader was not available.", T),
    ("FencedLeaderEpoch", "The epoch is older than the broker's.", T),
)
SAID: Final[tuple[tuple[str, Label], ...]] = (
    ("Problem updating your DataSource at this time. Please try again at another time.", T),
    ("Invalid DataSource Option: pool.", P),
    ("There is no DataSource with that id: 7.", P),
    ("connectionType is not allowed to be changed.", P),
    ("Missing 'connectionType' in payload.", P),
    ("Too many requests being processed at the same time.", R),
    ("Your account lacks the privileges necessary to perform the request.", P),
    ("Authorization token invalid on this endpoint", P),
    ("Insufficient Privileges", P),
    ("Server Overloaded due to high traffic", T),
    ("Authentication Fails, Your api key is invalid", P),
    ("Your connection to the warehouse timed out while the statement was running", U),
    ("Statement queued for too long; warehouse is resuming", T),
    ("Object does not exist or not authorized", P),
    ("Numeric value 'abc' is not recognized", P),
    ("The number of jobs running at once is over what your tier allows", R),
    ("Remote service hung up before the answer was complete", U),
    ("Unable to resolve host right now, DNS server temporarily failing", T),
    ("Workspace is over its limit of 30 API calls per second", R),
    ("The cluster is terminated or not ready to receive jobs", T),
)


def services() -> Iterator[Template]:
    """One template per row; codes of a broker both as a type and as a code beside its message."""
    for number, (service, status, body, label) in enumerate(ANSWERS):
        answer = {"status": status, "headers": {}, "body": json.dumps(body)}
        yield Template(
            "body",
            f"{service} {status} {number}",
            label,
            copied(answer),
            cut_off=label == U,
        )
    for name, text, label in BROKER:
        made = type(f"{name}Error", (Exception,), {"__module__": "broker.errors"})
        yield Template("driver", name, label, saying(made, text), cut_off=label == U)
        yield Template("wording", text, label, saying(Odd, text), cut_off=label == U)
    for text, label in SAID:
        yield Template("wording", text, label, saying(Odd, text), cut_off=label == U)
