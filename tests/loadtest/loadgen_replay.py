"""Run LoadGen with a system under test whose answers take given times, and log what it saw.

`python -m tests.loadtest.loadgen_replay CONFIG.json`: LoadGen keeps global state, so each run has a
process of its own. Writes LoadGen's logs and `tokens.json` (sample sequence -> tokens) to `out`.
"""

from __future__ import annotations

import array
import heapq
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg  # type: ignore[import-not-found]


class Answering:
    """Answers each sample after a drawn time; `slow` samples get `slow_s` more."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.rng = random.Random(config["draw_seed"])
        self.due: list[tuple[float, int, int, int]] = []
        self.changed = threading.Condition()
        self.stopped = False
        self.tokens: dict[int, int] = {}
        self.byte = array.array("B", b"x")

    def issue(self, samples: list[Any]) -> None:
        """Take samples from LoadGen."""
        now = time.monotonic()
        config = self.config
        with self.changed:
            for sample in samples:
                number = len(self.tokens)
                tokens = self.rng.randint(*config["tokens"]) if config["token"] else 1
                first = config["ttft_s"] * self.rng.lognormvariate(0, 0.2)
                if number in config["slow"]:
                    first += config["slow_s"]
                step = config["tpot_s"] * self.rng.lognormvariate(0, 0.05)
                self.tokens[number] = tokens
                if config["token"]:
                    heapq.heappush(self.due, (now + first, sample.id, 0, tokens))
                done = now + first + (tokens - 1) * step
                heapq.heappush(self.due, (done, sample.id, 1, tokens))
            self.changed.notify()

    def answer(self) -> None:
        """Complete what is due, until stopped."""
        address = self.byte.buffer_info()[0]
        while not self.stopped:
            with self.changed:
                wait = self.due[0][0] - time.monotonic() if self.due else 0.1
                if wait > 0:
                    self.changed.wait(min(wait, 0.1))
                    continue
                _, sample, last, tokens = heapq.heappop(self.due)
            if not last:
                lg.FirstTokenComplete([lg.QuerySampleResponse(sample, address, 1)])
            elif self.config["token"]:
                lg.QuerySamplesComplete([lg.QuerySampleResponse(sample, address, 1, tokens)])
            else:
                lg.QuerySamplesComplete([lg.QuerySampleResponse(sample, address, 1)])


def settings(config: dict[str, Any]) -> Any:
    """Write LoadGen's settings by hand (its own configuration is read once per process)."""
    made = lg.TestSettings()
    made.scenario = getattr(lg.TestScenario, config["scenario"])
    made.mode = lg.TestMode.PerformanceOnly
    made.qsl_rng_seed, made.sample_index_rng_seed, made.schedule_rng_seed = config["seeds"]
    made.server_target_qps = made.offline_expected_qps = config["qps"]
    made.min_duration_ms = config["min_duration_ms"]
    made.min_query_count = config["min_queries"]
    made.use_token_latencies = config["token"]
    made.ttft_latency = config["ttft_limit_ns"]
    made.tpot_latency = config["tpot_limit_ns"]
    made.server_target_latency_ns = config["latency_limit_ns"]
    made.server_target_latency_percentile = 0.99
    made.single_stream_target_latency_percentile = 0.9
    made.single_stream_expected_latency_ns = 4_000_000
    made.sample_concatenate_permutation = config["whole"]
    made.performance_sample_count_override = config["size"]
    return made


def main() -> None:
    """Run what the configuration file says."""
    config = json.loads(Path(sys.argv[1]).read_text())
    answering = Answering(config)
    threading.Thread(target=answering.answer, daemon=True).start()
    sut = lg.ConstructSUT(answering.issue, lambda: None)
    size = config["size"]
    qsl = lg.ConstructQSL(size, size, lambda _: None, lambda _: None)
    logs = lg.LogSettings()
    output = lg.LogOutputSettings()
    output.outdir = config["out"]
    output.copy_summary_to_stdout = False
    logs.log_output = output
    logs.enable_trace = True
    lg.StartTestWithLogSettings(sut, qsl, settings(config), logs)
    answering.stopped = True
    Path(config["out"], "tokens.json").write_text(json.dumps(answering.tokens))


if __name__ == "__main__":
    main()
