"""Rate limits of services that refuse with 429: keeping their pace, from any number of processes.

What they promise is told in docs/rate-limits.md.
"""

from stageflow.stages.work.rate.answer import Answer, QuotaHeaders, RateLimited
from stageflow.stages.work.rate.limiter import RateLimiter
from stageflow.stages.work.rate.meter import Rate

__all__ = ["Answer", "QuotaHeaders", "Rate", "RateLimited", "RateLimiter"]
