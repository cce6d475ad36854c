"""What the text of a message says: the last layer, for errors that say nothing else."""

from __future__ import annotations

import re
from typing import Final

from stageflow.model.classification.sign import ErrorKind

P, T = ErrorKind.PERMANENT, ErrorKind.TRANSIENT
R, U = ErrorKind.THROTTLED, ErrorKind.UNKNOWN
READ_MAX: Final = 2_000
"""Characters of a message that are looked at."""

_RULES: Final = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (P, r"insufficient (quota|funds|balance|credit)|billing|payment (is )?required"),
        (
            P,
            r"credit balance|out of credits|no (remaining )?credits|purchase|top up|add"
            r" (a )?payment",
        ),
        (
            P,
            r"upgrade (your )?(plan|account|subscription)|free (tier|plan|trial)"
            r" (has )?(end|expir)",
        ),
        (P, r"(maximum|max) context|context (length|window)|too many tokens in|prompt is too long"),
        (
            P,
            r"reduce the (length|size)|(payload|body|request|prompt|input|file) (is )?too"
            r" (large|long|big)",
        ),
        (P, r"content (filter|polic|management)|safety (system|filter|setting)|flagged|moderation"),
        (R, r"rate.?limit|too many (requests|concurrent|calls|attempts)|throttl|slow(ing)? down"),
        (R, r"(requests?|tokens?|calls?|queries) (per|/) ?(sec|min|hour|day|month)"),
        (
            R,
            r"(request|call|query|concurrency|usage) (rate|quota|limit)s?( has been| was|"
            r" is)? (exceed|reach|hit)",
        ),
        (R, r"exceed\w* (your |the |its )?(\w+ ){0,3}(quota|rate|limit of \d+ (req|call))"),
        (
            R,
            r"quota (\w+ ){0,4}(exceed|exhaust|reach|used)|(reach|hit|over)\w* (your|the)"
            r" (\w+ ){0,3}(limit|quota)",
        ),
        (
            R,
            r"too (quickly|fast|frequent)|(send|mak)ing (requests )?too (many|quick|fast|"
            r"frequent)|back off",
        ),
        (
            R,
            r"\b429\b|resource (has been )?exhausted|reduce (your )?(request )?(rate|"
            r"frequency|traffic)",
        ),
        (
            U,
            r"without (sending a |a )?(response|reply|answer)|no (response|reply|"
            r"answer)( was)? (received|from)",
        ),
        (
            U,
            r"(response|reply|answer) (was )?(lost|interrupted|truncated|incomplete|never"
            r" (came|arrived))",
        ),
        (
            U,
            r"read (operation )?timed? ?out|(timed? ?out|timeout).{0,40}(waiting for|"
            r"reading|awaiting)",
        ),
        (U, r"(waiting for|reading|awaiting|receiving).{0,60}(timed? ?out|timeout)"),
        (
            U,
            r"(upstream|gateway|backend|origin).{0,30}(timed? ?out|timeout|did not"
            r" (respond|answer))",
        ),
        (
            U,
            r"(may|might|could) (or may not )?have (been )?(complet|succe|process|appli|"
            r"commit|execut|happen)",
        ),
        (
            U,
            r"(outcome|result|status|state) (of the \w+ )?(is |are )?(unknown|uncertain|"
            r"undetermined|indetermin)",
        ),
        (
            U,
            r"connection (was |has been )?(lost|dropped|closed|terminated).{0,40}(during|"
            r"mid|while|after|unexpected|before)",
        ),
        (
            U,
            r"closed the connection unexpectedly|unexpected(ly)? (eof|closed|disconnect)|"
            r"server disconnected",
        ),
        (
            T,
            r"connect(ion)? (attempt )?timed? ?out|connect timeout|could not connect|"
            r"(can'?t|cannot|unable to) (connect|reach|establish)",
        ),
        (
            T,
            r"connection refused|refused (the|our|your) connection|(host|network)"
            r" (is )?(unreachable|down)",
        ),
        (
            T,
            r"temporary failure in name|name resolution.{0,20}(temporar|fail)|(lock|pool|"
            r"queue) (wait )?time ?out",
        ),
        (
            U,
            r"connection (was |has been )?(reset|aborted|broken)|reset by peer|"
            r"broken pipe|socket hang ?up",
        ),
        (U, r"deadline (has )?(exceeded|expired|passed)|timed? ?out|timeout|took too long"),
        (
            T,
            r"(service|server|model|system|engine|backend|database|resource|endpoint|"
            r"cluster|node).{0,30}(unavailable|not (yet )?(available|ready)|offline)",
        ),
        (
            T,
            r"temporar|try again|retry|please wait|overload|(at|over|out of|insufficient|"
            r"no|exceed\w*) capacity|busy|high (demand|load|traffic)",
        ),
        (
            T,
            r"maintenance|warming up|starting up|(is|still|being|currently) (loading|"
            r"starting|initiali[sz]ing|restarting|scal)",
        ),
        (
            T,
            r"deadlock|serializ\w+ (fail|conflict|error)|database is locked|"
            r"could not obtain lock|lock not available",
        ),
        (
            T,
            r"failing over|failover|leader election|no leader|not (the )?(leader|primary)|"
            r"rebalanc|shutting down",
        ),
        (
            P,
            r"invalid|malformed|not (a )?valid|bad request|unrecogni[sz]ed|unexpected"
            r" (field|key|argument|parameter|token|type)",
        ),
        (
            P,
            r"(not|isn'?t|wasn'?t) (found|supported|allowed|permitted|authori[sz]ed|"
            r"implemented|enabled|recogni[sz]ed)",
        ),
        (
            P,
            r"(does|do|did) ?n[o']t (exist|have (access|permission)|support|match)|"
            r"no such|unknown (model|field|parameter|column|method|command|user)",
        ),
        (
            P,
            r"unauthori[sz]ed|forbidden|permission|access (is )?denied|denied|authenticat|"
            r"credential|api.?key|expired (token|key|cert)",
        ),
        (
            P,
            r"(token|key|session|licen[cs]e|certificate|subscription|account)( \w+){0,3}"
            r" (has )?(expired|revoked|disabled|suspended|deactivated|closed|locked)",
        ),
        (
            P,
            r"missing|required (field|parameter|argument|property|header)|must (be|not|"
            r"have|contain|match)|is required|mandatory",
        ),
        (
            P,
            r"already (exists|registered|taken|in use|been (used|processed))|duplicate|"
            r"violat|constraint|conflict",
        ),
        (
            P,
            r"certificate verify|self.signed|hostname mismatch|unsupported|"
            r"not.?implemented|deprecated|retired|discontinued|no longer",
        ),
        (
            P,
            r"syntax error|(can'?t|cannot|failed to|unable to|could not) (parse|decode|"
            r"deserial|convert|cast|validate)|out of range|schema",
        ),
        (
            T,
            r"internal (server |service )?error|unexpected (server |internal )?(error|"
            r"condition)|something went wrong|server (had an |encountered an )?error|"
            r"bad gateway|glitch|hiccup",
        ),
    )
)
_STRONG: Final = {"P": 6, "R": 13}
"""So many rules from the front tell money from time, and time from anything else."""


def of_wording(text: str) -> ErrorKind | None:
    """What the message says; None when no phrase of it is known."""
    if not text:
        return None
    read = text[:READ_MAX]
    for kind, pattern in _RULES:
        if pattern.search(read):
            return kind
    return None


def against_status(status: int, text: str) -> ErrorKind | None:
    """What the message says where the status alone is known to mislead; None when it stands.

    429 for an empty account, 403 and 400 for too many requests, 400 for a service that is not
    ready, 2xx for anything.
    """
    read = text[:READ_MAX]
    money = any(pattern.search(read) for _, pattern in _RULES[: _STRONG["P"]])
    rate = any(pattern.search(read) for _, pattern in _RULES[_STRONG["P"] : _STRONG["R"]])
    if status == 429:
        return P if money and not rate else None
    if status in (400, 403) and rate and not money:
        return R
    if status == 400 and re.search(
        r"try again (later|in)|temporar|overload|please retry|(is|still|currently)"
        r" (loading|starting)",
        read,
        re.IGNORECASE,
    ):
        return T
    return None
