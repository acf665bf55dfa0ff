"""Do options, scenarios, datasets and traces become the run that they describe?"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from loadtest import dataset, lengths, plan, scenario, traces
from loadtest.options import RunOptions, parser
from loadtest.payload import Requests
from loadtest.rules import Mode
from loadtest.target import Target

MS = 1_000_000

# From loadgen/mlperf.conf of LoadGen 6.0.10, in milliseconds, as the wheel reports them.
LIMITS = {
    ("llama2-70b", "server"): (2000, 200, 24576),
    ("llama2-70b", "interactive"): (450, 40, 24576),
    ("gpt-oss-120b", "server"): (3000, 80, 6396),
    ("gpt-oss-120b", "interactive"): (2000, 15, 6396),
    ("deepseek-r1", "server"): (2000, 80, 4388),
    ("deepseek-r1", "interactive"): (1500, 15, 4388),
    ("llama3.1-8b", "server"): (2000, 100, 13368),
    ("llama3.1-8b", "interactive"): (500, 30, 13368),
    ("llama3.1-405b", "server"): (6000, 175, 8313),
    ("llama3.1-405b", "interactive"): (4500, 80, 8313),
    ("mixtral-8x7b", "server"): (2000, 200, 15000),
}


@pytest.mark.parametrize(("model", "name"), LIMITS)
def test_shipped_limits_are_loadgens(model: str, name: str) -> None:
    made = scenario.load(name, model)
    ttft, tpot, size = LIMITS[model, name]
    assert (made.rules.ttft_ns, made.rules.tpot_ns) == (ttft * MS, tpot * MS)
    assert made.dataset_size == size
    assert made.rules.min_duration_ns == 600_000 * MS
    assert made.rules.min_queries == 100
    assert made.rules.percentile == 0.99
    assert made.whole_passes
    assert not made.own


@pytest.mark.parametrize("model", scenario.known())
def test_every_shipped_scenario_has_a_stand_in_dataset(model: str) -> None:
    for name in scenario.known()[model]:
        made = scenario.load(name, model)
        data = dataset.stand_in(made, 50)
        assert data.synthetic
        sample = data.sample(7)
        assert len(str(sample.prompt).split()) > 2
        assert data.digest == dataset.stand_in(made, 50).digest


def test_other_scenarios_have_their_own_rules() -> None:
    video = scenario.load("single_stream", "wan-2.2-t2v-a14b").rules
    assert (video.mode, video.percentile, video.token_latencies) == (Mode.SINGLE_STREAM, 0.9, False)
    offline = scenario.load("offline", "llama2-70b").rules
    assert (offline.mode, offline.min_queries) == (Mode.OFFLINE, 24576)
    whole = scenario.load("server", "qwen3-vl-235b-a22b").rules
    assert (whole.latency_ns, whole.ttft_ns, whole.token_latencies) == (12_000 * MS, None, False)


@pytest.mark.parametrize(
    ("name", "model", "told"),
    [
        ("server", "gpt-5", "known: deepseek-r1"),
        ("server", "../etc/passwd", "no scenarios"),
        ("server", None, "--model"),
        ("night", "llama2-70b", "known: server, interactive, offline"),
        ("/nowhere.yaml", None, "no scenario file"),
    ],
)
def test_unknown_scenarios_are_refused_with_what_is_known(
    name: str, model: str | None, told: str
) -> None:
    with pytest.raises(scenario.ScenarioError, match=told):
        scenario.load(name, model)


def test_a_scenario_of_ones_own_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    page = {
        "model": "m",
        "api": "chat",
        "scenarios": {
            "day": {
                "mode": "Server",
                "ttft_ms": 100,
                "tpot_ms": 10,
                "classes": {"batch": {"ttft_ms": 9000}},
            }
        },
    }
    path.write_text(yaml.safe_dump(page))
    made = scenario.load(f"{path}:day", "served")
    assert (made.model, made.own, made.rules.ttft_ns) == ("served", True, 100 * MS)
    assert made.class_rules["batch"].ttft_ns == 9000 * MS
    assert made.class_rules["batch"].tpot_ns == 10 * MS
    path.write_text(yaml.safe_dump(page | {"api": "telnet"}))
    with pytest.raises(scenario.ScenarioError, match="api is one of"):
        scenario.load(str(path), None)
    path.write_text(yaml.safe_dump(page | {"ttft": 3}))
    with pytest.raises(scenario.ScenarioError, match="unknown ttft"):
        scenario.load(str(path), None)


def test_a_faithful_run_needs_the_real_dataset(tmp_path: Path) -> None:
    path = tmp_path / "orca.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q {i}"}) + "\n" for i in range(24576)))
    faithful = plan.make(RunOptions(target_qps=30, dataset=str(path)))
    assert faithful.deviations == ()
    assert len(faithful.schedule) == 24576, "one whole pass"
    assert faithful.schedule.arrivals_ns[-1] >= 600_000 * MS
    synthetic = plan.make(RunOptions(target_qps=30))
    assert len(synthetic.deviations) == 1
    assert synthetic.schedule.digest == faithful.schedule.digest
    assert synthetic.digest != faithful.digest


def test_a_shorter_run_says_so_and_does_not_pass_the_dataset_whole() -> None:
    short = plan.make(RunOptions(target_qps=10, duration=30))
    assert 250 < len(short.schedule) < 350
    assert any("30 s instead of 600" in text for text in short.deviations)
    assert any("not passed whole" in text for text in short.deviations)
    few = plan.make(RunOptions(target_qps=10, samples=100, seed="7", arrival="poisson"))
    told = " ".join(few.deviations)
    assert "100 samples" in told
    assert "own seed" in told
    assert "not LoadGen's" in told


@pytest.mark.parametrize("arrival", ["poisson", "constant", "burst"])
def test_own_arrivals_are_planned(arrival: str) -> None:
    made = plan.make(RunOptions(target_qps=20, duration=60, samples=30, arrival=arrival))
    assert 900 < len(made.schedule) < 1500
    assert made.schedule.kind == arrival


def test_options_survive_the_command_line() -> None:
    options = RunOptions(
        model="gpt-oss-120b", target_qps=2.5, duration=9, samples=8, insecure=True, api_key="secret"
    )
    line = options.arguments()
    assert "secret" not in " ".join(line)
    parsed = RunOptions.of(parser().parse_args(line))
    assert parsed == RunOptions.of(vars(parser().parse_args(line)))
    assert (parsed.model, parsed.target_qps, parsed.samples, parsed.insecure) == (
        "gpt-oss-120b", 2.5, 8, True,
    )  # fmt: skip


def test_what_locusts_page_gives_back_as_text_is_read() -> None:
    page = {"duration": "20", "samples": "100", "min_queries": "", "target_qps": 8.0}
    options = RunOptions.of(page)
    assert (options.duration, options.samples, options.min_queries) == (20.0, 100, None)
    assert options.target_qps == 8.0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"prompt": "one"}\n\n{"input": "two", "max_tokens": 3}\n'),
        ("a.json", '{"data": [{"question": "one"}, {"text_input": "two", "max_tokens": 3}]}'),
        ("a.txt", "one\ntwo\n"),
    ],
)
def test_datasets_are_read_plain_or_zipped(name: str, text: str, tmp_path: Path) -> None:
    plain, zipped = tmp_path / name, tmp_path / f"{name}.gz"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    for path in (plain, zipped):
        data = dataset.read(path)
        assert [data.sample(i).prompt for i in range(data.size)] == ["one", "two"]
        assert not data.synthetic
    assert dataset.read(plain, size=1).size == 1


def test_token_ids_and_messages_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    path.write_text(json.dumps({"messages": messages}) + "\n" + json.dumps({"tok_input": [1, 2]}))
    data = dataset.read(path)
    target = Target("http://127.0.0.1:1/v1")
    chat = Requests(target, scenario.load("server", "gpt-oss-120b"), model="m")
    assert chat.body(data.sample(0))["messages"] == messages
    completions = Requests(target, scenario.load("interactive", "llama2-70b"), model="m")
    body = completions.body(data.sample(1))
    assert body["prompt"] == [1, 2]
    assert body["service_tier"] == "priority"
    assert body["stream_options"] == {"include_usage": True}
    assert "ignore_eos" not in body


def test_a_sample_may_ask_for_a_class_and_a_tenants_key() -> None:
    target = Target("http://127.0.0.1:1/v1")
    requests = Requests(
        target,
        scenario.load("server", "llama2-70b"),
        model="m",
        api_key="mine",
        tenant_keys={"acme": "theirs"},
    )
    sample = dataset.Sample("hi", max_tokens=5, exact_tokens=5, group="offline", tenant="acme")
    body = requests.body(sample)
    assert (body["service_tier"], body["max_tokens"], body["ignore_eos"]) == ("flex", 5, True)
    assert b"Bearer theirs" in requests.generate(sample)
    assert b"Bearer mine" in requests.generate(dataset.Sample("hi"))
    assert requests.generate(sample).startswith(b"POST /v1/completions HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "x", "cannot read"),
        ("a.jsonl", "", "no samples"),
        ("a.jsonl", "{}", "none of messages"),
        ("a.json", "[3]", "no object"),
        ("a.pkl", "x", "--trust-pickle"),
    ],
)
def test_what_is_no_dataset_is_refused(name: str, text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(dataset.DatasetError, match=told):
        dataset.read(path)
    with pytest.raises(dataset.DatasetError, match="no dataset file"):
        dataset.read(tmp_path / "none")


def test_lengths_have_their_published_statistics() -> None:
    llama = scenario.load("server", "llama2-70b").stand_in["output_tokens"]
    drawn = lengths.draw(llama, 1, 24576)
    assert drawn.mean() == pytest.approx(283, rel=0.02)
    assert np.median(drawn) == pytest.approx(263, rel=0.02)
    assert np.quantile(drawn, 0.9) == pytest.approx(476, rel=0.02)
    assert (drawn.min(), drawn.max()) >= (11, 1000)
    assert drawn.max() <= 1024
    gpt = scenario.load("server", "gpt-oss-120b").stand_in["output_tokens"]
    drawn = lengths.draw(gpt, 1, 6396)
    assert drawn.mean() == pytest.approx(1383.4, rel=0.02)
    assert drawn.std() == pytest.approx(284, rel=0.05)
    with pytest.raises(ValueError, match="unknown length"):
        lengths.draw({"zipf": 1}, 1, 1)


def test_azure_and_own_traces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(
        gzip.compress(b"t_s,in_tokens,out_tokens,class\n5,10,3,interactive\n4,20,1,offline\n")
    )
    trace = traces.read(path)
    assert trace.offsets_s.tolist() == [4, 5]
    assert [row[1:4] for row in trace.rows] == [(20, 1, "offline"), (10, 3, "interactive")]
    part = trace.window(4.5, 10)
    assert part.offsets_s.tolist() == [0.5]
    with pytest.raises(traces.TraceError, match="nothing between"):
        trace.window(100, None)


def test_mooncakes_traces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp": 1500, "input_length": 7, "output_length": 2, "hash_ids": [0]}\n')
    trace = traces.read(path)
    assert trace.rows == (traces.Recorded(1.5, 7, 2, blocks=(0,)),)


def test_equal_prefix_blocks_are_equal_text() -> None:
    rows = [
        traces.Recorded(0, 1100, 1, blocks=(4, 5, 6)),
        traces.Recorded(1, 1100, 1, blocks=(4, 5, 7)),
    ]
    data = dataset.recorded(rows, "t", "d")
    first, second = (str(data.sample(i).prompt).split() for i in range(2))
    assert len(first) == len(second) == 1100
    assert first[:1024] == second[:1024]
    assert first[1024:] != second[1024:]


def test_servegens_rates_become_arrivals(tmp_path: Path) -> None:
    columns = "t_s,client,rate_rps,iat_cv,iat_family,iat_p1,iat_p2,in_mean,in_p50,in_p90,in_p99,"
    columns += "out_mean,out_p50,out_p90,out_p99"
    rows = [
        "0,0,10,1,G,1,0.1,100,80,200,400,50,40,90,200",
        "0,1,5,2,W,0.5,0.1,,,,,,,,",
        "600,0,10,1,G,1,0.1,100,80,200,400,50,40,90,200",
        "9000,0,10,1,G,1,0.1,100,80,200,400,50,40,90,200",
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([columns, *rows]))
    trace = traces.read(path, seed=3, horizon_s=1200)
    assert trace.drawn
    assert 14_000 < len(trace.offsets_s) < 16_500
    assert np.all(np.diff(trace.offsets_s) >= 0)
    again = traces.read(path, seed=3, horizon_s=1200)
    assert np.array_equal(again.offsets_s, trace.offsets_s)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "t_s,in_tokens,out_tokens\n"])
def test_what_is_no_trace_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(traces.TraceError):
        traces.read(path)
    with pytest.raises(traces.TraceError, match="no trace"):
        traces.read(tmp_path / "none")


def test_a_traced_plan_takes_lengths_and_labels_from_the_trace(
    tmp_path: Path, scenario: Callable[..., Path]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t_s,in_tokens,out_tokens,class,tenant\n0,9,4,offline,b\n2,9,5,interactive,a\n")
    made = plan.make(
        RunOptions(scenario=str(scenario()), arrival="trace", trace=str(path), trace_speed=2)
    )
    assert made.schedule.arrivals_ns.tolist() == [0, 10**9]
    assert made.dataset.groups == ("interactive", "offline")
    assert made.dataset.sample(1).exact_tokens == 5
    assert made.rules.min_duration_ns == 0
    with pytest.raises(ValueError, match="--trace"):
        plan.make(RunOptions(scenario=str(scenario()), arrival="trace"))
