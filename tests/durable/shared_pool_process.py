"""A process of its own that tests run and kill: takes shared pools one after another.

`python shared_pool_process.py ADDRESS POOLS PAUSE_S` takes the comma-separated pools, each after
the pause, keeps the last one for the pause, and prints a line of JSON for each grant and for the
end of its run.
"""

from __future__ import annotations

import asyncio
import json
import sys

from stageflow import Context, Limits, Pipeline, Runtime, SharedPool, agent


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def take(ctx: Context, names: list[str], pause_s: float) -> str:
    if not names:
        return "done"
    async with ctx.pool(names[0]) as fence:
        say(pool=names[0], fence=fence)
        await asyncio.sleep(pause_s)
        return await take(ctx, names[1:], pause_s)


@agent
async def takes(ctx: Context, names: list[str], pause_s: float) -> str:
    return await take(ctx, names, pause_s)


async def main(address: str, names: list[str], pause_s: float) -> None:
    pools = {name: SharedPool(1) for name in ("x", "y", "z")}
    async with Runtime(pools=pools, shared_pools=address, limits=Limits(scan_s=0.5)) as runtime:
        pipeline = Pipeline(
            "takes", [takes], inputs={"names": list[str], "pause_s": float}, outputs=takes
        )
        run = await pipeline.using(runtime=runtime).run(names=names, pause_s=pause_s)
        found = [[member.node for member in each.members] for each in runtime.pools.deadlocks]
    say(status=run.status, reason=run.reason, deadlocks=found)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2].split(","), float(sys.argv[3])))
