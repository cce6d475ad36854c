"""What was seen of one plan of waits, beside what the plan says: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .wait_graphs import Plan, cycles
from .wait_worlds import Facts, Seen


def facts_of(plan: Plan, seen: Sequence[Seen], *, engine: str, scan_s: float) -> Facts:
    """`seen` by process. Times in scan intervals."""
    waits_s = {name: at_s for each in seen for name, at_s in each.waits_s.items()}
    ended_s = {name: at_s for each in seen for name, at_s in each.ended_s.items()}
    statuses = {name: status for each in seen for name, status in each.statuses.items()}
    reports = [report for each in seen for report in each.reports]
    reports.sort(key=lambda report: ended_s.get(report["victim"], float("inf")))
    closed_s = waits_s.get(plan.closer)
    victims: list[str] = []
    exact = unlike = false = whole = 0
    delays: list[float] = []
    while reports:
        # Two that ended at one time are told in any order: the one that fits comes first.
        expected = plan.knots(without=victims)
        fitting = [each for each in reports if frozenset(each["members"]) in expected]
        report = (fitting or reports)[0]
        reports.remove(report)
        members = frozenset(report["members"])
        exact += members in expected
        unlike += members not in expected and any(members & each for each in expected)
        false += not any(members & each for each in expected)
        whole += _is_whole(plan, report)
        victim = report["victim"]
        victims.append(victim)
        if victim in ended_s and closed_s is not None:
            delays.append((ended_s[victim] - closed_s) / scan_s)
            closed_s = ended_s[victim]
    missed = cycles(plan.graph(without=victims))
    others = [each.name for each in plan.members if each.name not in victims]
    return {
        "engine": engine,
        "seed": plan.seed,
        "hosts": len(set(plan.hosts)),
        "stages": len(plan.members),
        "length": plan.length,
        "planted": bool(plan.closer),
        "escape": plan.escape,
        "kinds": sorted({each.wait.kind for each in plan.members if each.wait is not None}),
        "shared": len(plan.shared),
        "mute": plan.is_mute,
        "happened": not plan.closer or plan.closer in waits_s,
        "reports": len(victims),
        "exact": exact,
        "unlike": unlike,
        # A wait that was ended without a report is a false alarm, too.
        "false": false + sum(name not in victims for name in ended_s),
        "whole": whole,
        "missed": len(missed),
        "delay": max(delays, default=0.0),
        "others": len(others),
        "finished": sum(statuses.get(name) == "ok" for name in others),
    }


def _is_whole(plan: Plan, report: Mapping[str, Any]) -> bool:
    """Whether each member is told with what it holds and awaits, the victim is one of them, and it
    is said why that one."""
    told = report["members"]
    if report["victim"] not in told or not report["policy"]:
        return False
    for each in plan.members:
        if each.name in told:
            holds, awaits = told[each.name]
            expected = {
                f"{plan.seed:x} p{pool}": 1
                for pool, holders in plan.pools().items()
                if each.number in holders
            }
            if holds != expected or not awaits:
                return False
    return all(awaits for _, awaits in told.values())
