"""What may a cluster's own autoscaler, and Prometheus, read of ours?

`GET /metrics`; `GET /v1/pools/{pool}` gives `{"target": n, ...}` for KEDA's metrics-api scaler
(valueLocation `target`), and an HPA reads the same number from Prometheus.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from autoscale.loop import Autoscaler


class Gauges:
    """The numbers of all pools, made anew for each scrape."""

    def __init__(self, autoscaler: Autoscaler) -> None:
        self._autoscaler = autoscaler

    def text(self) -> bytes:
        """Write the exposition."""
        registry = CollectorRegistry()
        made: dict[str, Gauge] = {}

        def gauge(name: str, text: str, labels: tuple[str, ...] = ("pool",)) -> Gauge:
            if name not in made:
                made[name] = Gauge(f"sluice_autoscale_{name}", text, labels, registry=registry)
            return made[name]

        gauge("leader", "1 on the instance that acts", ()).set(float(self._autoscaler.leads))
        for pool, last in self._autoscaler.last.items():
            view, plan, forecast = last.view, last.plan, last.forecast
            gauge("target_units", "Units that there shall be").labels(pool).set(plan.target)
            gauge("ready_units", "Units that calls go to").labels(pool).set(view.ready)
            gauge("starting_units", "Pending starts").labels(pool).set(len(view.starting))
            gauge("draining_units", "Units that finish").labels(pool).set(view.draining)
            gauge("stuck_units", "Units that do not serve").labels(pool).set(view.stuck)
            gauge("level_units", "Work of the last minute").labels(pool).set(forecast.level)
            gauge("wanted_units", "The forecast's quantile").labels(pool).set(plan.wanted)
            for part in last.parts if len(last.parts) > 1 else ():
                name = part.look.kind.config.name
                stand = part.look.stand
                for state, units in (
                    ("ready", len(stand.serving) + stand.foreign),
                    ("starting", len(stand.starting)),
                    ("draining", len(stand.draining)),
                    ("stuck", len(stand.stuck)),
                ):
                    gauge(
                        "kind_units", "Units of one of several kinds", ("pool", "kind", "state")
                    ).labels(pool, name, state).set(units)
            gauge("price", "What a miss costs in running").labels(pool).set(plan.price)
            gauge("blind", "1 while signals are stale").labels(pool).set(float(view.blind))
            gauge("cold_start_seconds", "As observed").labels(pool).set(view.cold_start_s)
        return generate_latest(registry)


@asynccontextmanager
async def serving(
    autoscaler: Autoscaler, host: str, port: int, on_bound: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serve until left; `on_bound` gets the base URL."""
    gauges = Gauges(autoscaler)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=gauges.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def pool(request: web.Request) -> web.Response:
        last = autoscaler.last.get(request.match_info["pool"])
        if last is None:
            raise web.HTTPNotFound(
                text='{"error": "no such pool"}', content_type="application/json"
            )
        return web.json_response(
            {
                "target": last.plan.target,
                "ready": last.view.ready,
                "starting": len(last.view.starting),
                "guard": last.plan.guard.value,
                "blind": last.view.blind,
                "at": last.plan.at,
                "kinds": {part.look.kind.config.name: part.target for part in last.parts},
            }
        )

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"leader": autoscaler.leads})

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", metrics),
            web.get("/v1/pools/{pool}", pool),
            web.get("/livez", alive),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        on_bound(f"http://{host}:{bound}")
        yield
    finally:
        await runner.cleanup()
