"""What codes for machines and names of exception classes mean, by the words they are made of.

A service that was never seen spells `rate_limit_exceeded`, `RateLimitExceeded` or
`TooManyRequestsException`; the words are the same. The first rule that fits decides, so that
narrow ones stand before wide ones: `insufficient_quota` is about money, `quota_exceeded`
about time.
"""

from __future__ import annotations

import re
from typing import Final

from stageflow.model.classification.sign import ErrorKind

P, T = ErrorKind.PERMANENT, ErrorKind.TRANSIENT
R, U = ErrorKind.THROTTLED, ErrorKind.UNKNOWN

_RULES: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (P, r"(size|token|length|depth|context)_?limit_?exceed|cost_?exceed|complexity"),
        (P, r"compacted|unroutable|exists(_error)?$|^bad_?(?!gateway)"),
        (R, r"slow_consumer|flood|quota_?(throttl|rate)"),
        (T, r"(selection|discovery|resolution)_time_?d?_?out"),
        (U, r"write_?fail|ack_?(lost|missing|time)"),
        (P, r"insufficient_?(quota|fund|balance|credit|permission|scope|privilege|storage)"),
        (P, r"billing|payment_required|credit_balance|out_of_credit|no_credit|quota_not_enough"),
        (P, r"account_?(deactivat|suspend|disabled|closed|delinquent|overdue)|deactivat|arrears"),
        (P, r"context_?(length|window)|string_above_max|max_?tokens_?exceed|too_(large|long|big)"),
        (P, r"content_?(filter|policy|management)|safety|moderation|blocked_|recitation|flagged"),
        (P, r"daily_?(transaction|spend)|hard_limit|usage_limit|spending_?(limit|cap)"),
        (
            T,
            r"time_?too_?skewed|prior_request_not_complete|idempotency_?(key|"
            r"request)?_?(in_use|in_progress)",
        ),
        (
            R,
            r"throttl|rate_?limit|too_?many_?(request|call|token|concurrent|connection)|slow_?down",
        ),
        (
            R,
            r"(request|token|concurren\w*|tps|rpm|tpm|qps|burst)_?(rate_?)?(quota|"
            r"limit)(_?exceed|_?reach|$)",
        ),
        (
            R,
            r"enhance_your_calm|provisioned_?throughput_?exceed|bandwidth_?limit|"
            r"limit_exceeded_?ex",
        ),
        (
            R,
            r"^limit_exceeded$|resource_?exhausted|quota_?exceed|exceeded?_quota|"
            r"user_rate|over_query_limit",
        ),
        (R, r"request_limit|query_?limit|traffic_?limit|flow_?control|too_fast"),
        (
            T,
            r"(lock|queue|connect|connection|pool|acquire|"
            r"checkout)_?(wait_?)?time_?d?_?out|lock_not_",
        ),
        (T, r"^request_?time_?out(_exception)?$|lock_time|could_not_connect|connection_refused"),
        (U, r"gateway_?time|deadline_?exceed|upstream_?(time|reset)|time_?d_?out|time_?out"),
        (
            U,
            r"server_?disconnect|connection_?(reset|aborted|lost|closed|broken)|"
            r"broken_pipe|incomplete_?read",
        ),
        (U, r"remote_?(disconnect|protocol)|unknown_?(result|outcome|commit)|closed_unexpected"),
        (
            P,
            r"not_?(found|supported|implemented|allowed|acceptable|authorized|permitted|"
            r"exist|valid)",
        ),
        (
            P,
            r"method_not|unsupported|unimplemented|un_?authori[sz]ed|un_?authenticated|"
            r"un_?processable",
        ),
        (
            P,
            r"permission|access_denied|denied|forbidden|credential|api_?key|signature|"
            r"expired_?token",
        ),
        (
            P,
            r"token_?expired|auth(entication|orization|_error|n_|z_)|invalid|malformed|bad_request",
        ),
        (
            P,
            r"validat|missing|no_such|does_not_exist|unknown_(model|parameter|field|"
            r"method|operation)",
        ),
        (
            P,
            r"already_?exist|duplicate|integrity|constraint|not_null|unique_viol|"
            r"foreign_key|conflict_with",
        ),
        (
            P,
            r"precondition|deprecat|retired|gone$|opt_?in|unprocessable|parse_?error|"
            r"syntax|schema_",
        ),
        (P, r"bad_(user_)?(input|param|value)|user_input|graphql_valid|^auth$|_auth$"),
        (P, r"revoked|not_authed|max_payload|payload_(exceed|too)|unknown_tool|unrecogni[sz]ed"),
        (P, r"out_of_(range|bounds)|violation|decommission|not_satisf|disabled|duplicate_"),
        (P, r"certificate|cert_|ssl_cert|unexpected_?parameter|argument|illegal|read_?only_?field"),
        (
            T,
            r"unavailable|over_?load|capacity|temporar|transient|try_?again|retry|"
            r"retri?able|back_?end",
        ),
        (
            T,
            r"not_?ready|loading|starting|initiali[sz]ing|warming|maintenance|"
            r"shutting_?down|restart",
        ),
        (
            T,
            r"not_(the_)?(coordinator|current|enough_replica)|fenced|stale|storage_error|to_lock",
        ),
        (
            T,
            r"(max|replica|replication)_?lag|no_(servers?|hosts?|nodes?|brokers?|backends?)|selection_time|model_error|"
            r"read_fail|reconnect_fail",
        ),
        (
            T,
            r"busy|dead_?lock|serialization|aborted|concurrent_?(mod|upd|write|trans)|"
            r"operation_abort",
        ),
        (
            T,
            r"transaction_?(conflict|in_progress)|lock(ed)?$|optimistic_?lock|lease|"
            r"election|no_leader",
        ),
        (
            T,
            r"not_(leader|primary|master|controller)|rebalanc|failover|internal|"
            r"server_?(error|fault)",
        ),
        (
            T,
            r"api_connection|connect_?error|connection_?error|service_?failure|bad_gateway",
        ),
        (
            T,
            r"engine_?(error|dead)|out_of_memory|dependency_?fail|upstream_?(error|fail)",
        ),
        (P, r"conflict|request_?error|client_?error|refus"),
    )
)
_BOUNDARY: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s.\-/:]+")
_IGNORED: Final = frozenset("error errors exception fault failed failure problem api".split())
LENGTH_MAX: Final = 100


def spelled(name: str) -> str:
    """`rateLimitExceeded`, `Rate-Limit exceeded` and `ns#RateLimitExceeded` as one spelling."""
    last = name.rsplit("#", 1)[-1].rsplit("/", 1)[-1]
    return re.sub(r"_+", "_", _BOUNDARY.sub("_", last)).strip("_").lower()


def of_name(name: str) -> ErrorKind | None:
    """What a code or the name of a class says; None when no word of it is known.

    Longer ones than LENGTH_MAX are sentences, and not read here.
    """
    if not name or len(name) > LENGTH_MAX:
        return None
    words = spelled(name)
    if words in _IGNORED:
        return None
    for kind, pattern in _RULES:
        if pattern.search(words):
            return kind
    return None
