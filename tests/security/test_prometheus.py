"""Does a real Prometheus read what a gateway tells, and do the rules say what happened?"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from tests.deploy.files import PROMETHEUS
from tests.gateways import running_gateway
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian's package)"
)


TRACE = "0af7651916cd43dd8448eb211c80319c"
DURATION = "gen_ai_server_request_duration_seconds"


def configured(directory: Path, target: str) -> Path:
    """Write the deployment's rules and a configuration that looks every second."""
    (directory / "rules").mkdir()
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = path.read_text().replace("interval: 15s", "interval: 1s")
        (directory / "rules" / path.name).write_text(text)
    config = directory / "prometheus.yml"
    fast = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    scrape = [{"job_name": "sluice", "static_configs": [{"targets": [target]}]}]
    config.write_text(
        yaml.safe_dump({"global": fast, "rule_files": ["rules/*.yml"], "scrape_configs": scrape})
    )
    return config


async def test_prometheus_counts_promises_that_were_kept_and_broken(
    tmp_path: Path, redis_url: str, free_port: int
) -> None:
    # Nobody keeps a tenth of a millisecond; an hour is kept by everybody.
    classes = {
        "server": {"rank": 1, "targets": {"default": {"ttft_ms": 3_600_000}}},
        "interactive": {"rank": 0, "targets": {"default": {"ttft_ms": 0.1}}},
    }
    async with (
        serve(SimulatedSettings(model="m", mean_output_tokens=5)) as urls,
        running_gateway(
            redis_url,
            {"m": [*urls]},
            classes=classes,
            routing={"policy": "least_outstanding"},
            # Nobody listens there: spans are lost, and their ids stand in the metrics.
            telemetry={"otlp_endpoint": "http://127.0.0.1:9", "trace_ratio": 0.0},
        ) as gateway,
        aiohttp.ClientSession() as session,
    ):
        command = ["prometheus", f"--config.file={configured(tmp_path, gateway.url[7:])}"]
        command += [f"--storage.tsdb.path={tmp_path}/data", "--enable-feature=exemplar-storage"]
        command += [f"--web.listen-address=127.0.0.1:{free_port}"]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=tmp_path,
        )
        try:

            async def call(tier: str) -> None:
                body = {
                    "model": "m",
                    "stream": True,
                    "service_tier": tier,
                    "messages": [{"role": "user", "content": "hi"}],
                }
                url = f"{gateway.url}/v1/chat/completions"
                headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
                async with session.post(url, json=body, headers=headers) as answer:
                    await answer.read()
                    assert answer.status == 200

            async def value(query: str) -> dict[str, float]:
                url = f"http://127.0.0.1:{free_port}/api/v1/query"
                try:
                    async with session.get(url, params={"query": query}) as answer:
                        found: Any = await answer.json()
                except aiohttp.ClientError:
                    return {}
                results = found.get("data", {}).get("result", [])
                return {
                    each["metric"].get("sluice_class", ""): float(each["value"][1])
                    for each in results
                }

            async def is_told() -> bool:
                await asyncio.gather(call("default"), call("priority"))
                found = await value("sluice:attainment:ratio5m")
                return found == {"server": 1.0, "interactive": 0.0}

            await eventually(is_told, within_s=60, every_s=0.5)
            assert await value('up{job="sluice"}') == {"": 1.0}
            asked = {"query": f"{DURATION}_bucket", "start": "0", "end": "9999999999"}
            url = f"http://127.0.0.1:{free_port}/api/v1/query_exemplars"
            async with session.get(url, params=asked) as answer:
                series = (await answer.json())["data"]
            found = [each["labels"]["trace_id"] for one in series for each in one["exemplars"]]
            assert set(found) == {TRACE}
            assert (await value("sluice:burn:rate5m"))["interactive"] == pytest.approx(100)
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 20)
