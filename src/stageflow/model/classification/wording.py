"""What the text of a message says: the last layer, for errors that say nothing else.

The groups are asked in order, and the first phrase that is known decides: narrow before wide, and
what forbids another attempt before what invites one, where both could be read out of a message.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from stageflow.model.classification.sign import ErrorKind
from stageflow.model.classification.statuses import of_errno

P, T = ErrorKind.PERMANENT, ErrorKind.TRANSIENT
R, U = ErrorKind.THROTTLED, ErrorKind.UNKNOWN
READ_MAX: Final = 2_000
"""Characters of a message that are looked at."""


def _any_of(*phrases: str) -> re.Pattern[str]:
    return re.compile("|".join(phrases), re.IGNORECASE)


MONEY: Final = _any_of(
    r"insufficient (quota|funds|balance|credit)|billing|payment (is )?required|payment method",
    r"credit balance|out of credits|used (all|up)( \w+){0,3} credits|"
    r"no (remaining )?credits|purchase|top up|add (a )?payment",
    r"upgrade (your )?(plan|account|subscription)|free (tier|plan|trial) (has )?(end|expir)",
    r"requires? (a |an )?(paid|higher|different) (plan|tier|subscription)",
)
SIZE: Final = _any_of(
    r"(maximum|max) context|context (length|window)|too many tokens|prompt is too long",
    r"(maximum|max) (number of|size|length)|too (large|big|small|short)\b",
    r"(data|text|value|name|prompt|message|input|body|url|string) (is )?too long",
    r"reduce the (length|size)|content (filter|polic|management)|safety (system|filter|setting)",
    r"flagged|moderation",
)
RATE: Final = _any_of(
    r"rate.?limit|too many (requests|concurrent|calls|attempts)|throttl|slow(ing)? (down|your)",
    r"(requests?|tokens?|calls?|queries) (per|/) ?(sec|min|hour|day|month)|\brate exceeded",
    r"(request|call|query|concurrency|usage|burst) ?(rate|quota|limit)s?( has been| was| is)? "
    r"?(exceed|reach|hit)",
    r"(concurrency|burst|simultaneous|parallel)( \w+){0,3} (limit|hit|reach|exceed)",
    r"exceed\w* (your |the |its )?(\w+ ){0,3}(quota|rate|limit of \d+ (req|call))",
    r"quota (\w+ ){0,4}(exceed|exhaust|reach|used)|throughput\w* (limit )?exceed",
    r"(reach|hit|over)\w* (your|the) (\w+ ){0,3}(limit|quota)|over_query_limit",
    r"too (quickly|fast|frequent)|(call|request) (volume|frequency|rate) (is |exceed)",
    r"(at once|at the same time|concurrently).{0,40}(allow|limit|max|exceed|over)|too many .{0,30}"
    r"(at the same time|at once)|limit of \d+ \w* ?(calls|requests)",
    r"(allowance|quota|limit)( \w+){0,5} (used|used up|spent|exhausted|consumed)|used up until",
    r"back off|enhance.your.calm|flood (control|wait)|rejected.execution",
    r"resource (has been )?exhausted|reduce (your )?(request )?(rate|frequency|traffic)",
)
_SENT: Final = _any_of(
    r"without (sending a |a )?(response|reply|answer)|no (response|reply|answer)\b",
    r"(response|reply|answer) (was )?(lost|interrupted|truncated|incomplete|never (came|arrived))",
    r"(response|stream|reply) (ended|closed)|ended prematurely|did not (respond|answer)",
    r"read (operation )?timed? ?out|(waiting for|reading|awaiting|receiving).{0,60}time",
    r"(timed? ?out|timeout).{0,40}(waiting for|reading|awaiting)",
    r"(upstream|gateway|backend|origin).{0,30}(timed? ?out|timeout|timing out)",
    r"(may|might|could) (or may not )?have (been )?(complet|succe|process|appli|commit|execut)",
    r"(outcome|result|status|state)\b.{0,20}(unknown|uncertain|undetermined|indetermin)",
    r"could not be determined|(not|never) (received|acknowledged) in time|gone away",
    r"connection\b.{0,20}(lost|dropped|closed|terminated).{0,40}(dur|mid|while|after|unexp|before)",
    r"lost connection|closed (the )?connection|end.of.file|unexpected(ly)? (eof|closed|disconn)",
    r"server disconnected",
)
_UNSENT: Final = _any_of(
    r"connect(ion)? (attempt )?timed? ?out|connect timeout|handshake timeout",
    r"(can ?not|can'?t|could not|couldn'?t|unable to|failed to) (be )?(connect|reach|establish)",
    r"could not be (established|reached|opened)|upstream connect error|dial tcp",
    r"connection refused|refused (the|our|your) connection|no route to host|EAI_AGAIN",
    r"(host|network) (is )?(unreachable|down)|temporary failure in name",
    r"name resolution.{0,20}(temporar|fail)|(lock|pool|queue) (wait )?time ?out",
    r"unable to acquire|could not (acquire|obtain)",
)
_CUT: Final = _any_of(
    r"connection (was |has been )?(reset|aborted|broken)|reset by peer|broken pipe|socket hang",
    r"deadline (has )?(exceeded|expired|passed)|timed? ?out|timeout|took too long|peer closed",
    r"connection closed|\beof\b",
)
_LATER: Final = _any_of(
    r"(service|server|model|system|engine|backend|database|resource|endpoint|cluster|node|leader|"
    r"shard|replica|primary|coordinator|partition|broker).{0,30}"
    r"(unavailable|not (yet )?(available|ready|active|reachable)|offline|busy)",
    r"temporar|try again|retry|please wait|overload|overwhelm|at the moment|currently unable",
    r"(at|over|out of|insufficient|no|exceed\w*|full|tier|max\w*) capacity",
    r"high (demand|load|traffic)|try .{0,20}(later|another time)|queued for",
    r"\bbusy\b|no healthy|not (yet )?(finished|completed)|(cannot|can't) (assign|allocate|"
    r"schedule)",
    r"maintenance|warming|starting up|being (provisioned|scaled|restarted|deployed)|provisioning",
    r"(is|still|being|currently) (loading|starting|initiali[sz]ing|restarting|scaling|draining)",
    r"could not be (started|created|allocated|scheduled)",
    r"deadlock|serializ\w+ (fail|conflict|error|access)|serialize access|database is locked",
    r"lock not available|concurrent (update|modif)|too many (clients|connections)|slots are",
    r"failing over|failover|leadership|election|no leader|not (the )?(leader|primary|master)",
    r"(disk|storage|i/o) error|conflict with recovery|old(er)? epoch|epoch is (old|stale)",
    r"not the (current|correct|right)|under way|in progress|resum(ing|ed)|in.sync|"
    r"fewer .{0,30}replica",
    r"rebalanc|shutting down|draining|does not currently|stale (leader|epoch|read|meta)",
)
_WRONG: Final = _any_of(
    r"invalid|malformed|not (a )?valid|bad request|unrecogni[sz]ed|precondition",
    r"unexpected (field|key|argument|parameter|token|type)|"
    r"expected \w+( \w+)?,? (but )?(got|found)",
    r"(not|isn'?t|wasn'?t) (been )?(found|supported|allowed|permitted|authori[sz]ed|implemented|"
    r"enabled|recogni[sz]ed|accessible|registered|known|defined)",
    r"(does|do|did) ?n[o']t (exist|have (access|permission)|support|match)|no such|unknown \w+",
    r"unauthori[sz]ed|forbidden|permission|denied|authenticat|authori[sz]ation|credential|api.?key",
    r"(token|key|session|licen[cs]e|certificate|subscription|account|card)( \w+){0,4} "
    r"(expired|revoked|disabled|suspended|deactivated|closed|locked|cancell?ed|declined)",
    r"expired (token|key|cert)|missing|required (field|parameter|argument|property|header)",
    r"must (be|not|have|contain|match)|(is|was|are) required|mandatory|field required",
    r"already (exists|registered|taken|in use|been (used|processed))|duplicate|violat|constraint",
    r"conflict|certificate|self.signed|hostname mismatch|unsupported|not.?implemented|deprecated",
    r"retired|discontinued|no longer|archived|read.only|sql syntax|syntax error|out of range",
    r"(can'?t|cannot|failed to|unable to|could not) (parse|decode|deserial|convert|cast|validate)",
    r"has no (column|attribute|field|method|property|member|table|such)|does not host",
    r"privilege|illegal|not one of|(larger|smaller|longer|greater|less) than|\bbelow \d|"
    r"outside (of )?",
    r"no module named|\bis not an? \w+|there is no \w+ (with|called|named)|(of this|"
    r"that) name exists|(satisf\w+|"
    r"against) the policy",
    r"schema|refused|bad (credentials|input|parameter|value)",
)
_BROKEN: Final = _any_of(
    r"internal (server |service )?error|unexpected (server |internal )?(error|condition)",
    r"something went wrong|server (had an |encountered an )?error|bad gateway|glitch|hiccup",
    r"(trouble|problem) (on|with) our (side|end|server|system)|an error on our (side|end)",
)
_ORDER: Final = (
    (P, MONEY),
    (R, _any_of(r"concurrency limit|burst limit|simultaneous requests")),
    (P, SIZE),
    (R, RATE),
    (U, _SENT),
    (T, _UNSENT),
    (T, _any_of(r"lock wait|deadlock|restart(ing)? transaction")),
    (U, _CUT),
    (T, _LATER),
    (P, _WRONG),
    (T, _BROKEN),
    (R, _any_of(r"\b429\b")),
)
_NOT_READY: Final = _any_of(
    r"try again (later|in)|temporar|overload|please retry|(is|still|currently) (loading|starting)"
)


_OF_SYSTEM: Final = tuple(
    (os.strerror(number).lower(), number) for number in sorted(errno.errorcode)
)
"""What the operating system says of each errno: clients quote it."""


def of_wording(text: str) -> ErrorKind | None:
    """What the message says; None when no phrase of it is known."""
    read = text[:READ_MAX]
    lowered = read.lower()
    for said, number in _OF_SYSTEM:
        if said in lowered:
            known = of_errno(number)
            return None if known is None else known[1]
    for kind, phrases in _ORDER:
        if phrases.search(read):
            return kind
    return None


def against_status(status: int, text: str) -> ErrorKind | None:
    """What the message says where the status alone is known to mislead; None when it stands.

    429 for an empty account, 403 and 400 for too many requests, 400 for a service that is not
    ready.
    """
    read = text[:READ_MAX]
    rate = RATE.search(read) is not None
    money = MONEY.search(read) is not None
    if status == 429:
        return P if money and not rate else None
    if status in (400, 403) and rate and not money and not SIZE.search(read):
        return R
    if status == 400 and _NOT_READY.search(read):
        return T
    return None
