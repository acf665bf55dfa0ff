"""Settings: what holds, and how a fault is told."""

from pathlib import Path

import pytest

from backends.registry import replica_id
from gateway.config import ConfigError, effective, load
from gateway.config_file import FileError, parse
from gateway.config_reference import reference
from gateway.settings import Settings
from gateway.settings_types import is_loopback

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def write(tmp_path: Path) -> "Write":
    return Write(tmp_path)


class Write:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, text: str, name: str = "sluice.yaml") -> Path:
        path = self.directory / name
        path.write_text(text)
        return path


def faults(path: Path | None, environ: dict[str, str] | None = None, **flags: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, flags)
    return str(caught.value).splitlines()


def test_without_a_file_the_defaults_hold() -> None:
    settings = load(None, {})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.admin_port) == ("127.0.0.1", 8000, 8001)
    assert settings.limits.body_bytes == 64 * 1024 * 1024
    assert list(settings.classes_by_name()) == ["interactive", "server", "offline"]
    assert settings.classes_by_name()["interactive"].targets("gpt-oss-120b").tpot_s == 0.015


def test_the_empty_file_is_a_file(write: Write) -> None:
    assert load(write("# nothing\n"), {}) == Settings()


def test_flags_win_over_the_environment_and_that_over_the_file(write: Write) -> None:
    path = write("port: 1\nadmin_port: 1\nhost: '127.0.0.3'\n")
    settings = load(path, {"SLUICE_PORT": "2", "SLUICE_ADMIN_PORT": "2"}, {"port": 3})
    assert (settings.host, settings.admin_port, settings.port) == ("127.0.0.3", 2, 3)


def test_the_environment_nests_by_two_underscores(write: Write) -> None:
    path = write("limits: {body_bytes: 2 MiB, connections: 7}\n")
    settings = load(path, {"SLUICE_LIMITS__BODY_BYTES": "1 MiB"})
    assert (settings.limits.body_bytes, settings.limits.connections) == (1024 * 1024, 7)


def test_a_variable_may_hold_a_whole_section() -> None:
    models = '{"a/b": {"engine": "simulated", "replicas": [{"url": "http://n:1"}]}}'
    assert load(None, {"SLUICE_MODELS": models}).adopted_replicas()[0].model == "a/b"
    assert load(None, {"SLUICE_QUEUE": "max_waiting: 3\nretry_after_s: 2"}).queue.max_waiting == 3


@pytest.mark.parametrize(
    "environ",
    [
        {"SLUICE_PORT": "tcp://10.0.0.1:8000"},
        {"SLUICE_PORT_8000_TCP_ADDR": "10.0.0.1"},
        {"SLUICE_SERVICE_PORT_HTTP": "8000", "SLUICE_SERVICE_HOST": "10.0.0.1"},
        {"SLUICE_CACHE_DIR": "/cache", "SLUICE_TORCH_INDEX": "http://x", "SLUICE_CONFIG": "f"}
        | {"SLUICE_API_KEY": "sk-a-client-exported-it"},
        {"SLUICE_HOST": ""},
    ],
)
def test_variables_that_are_no_settings_set_nothing(environ: dict[str, str]) -> None:
    assert load(None, environ) == Settings()


def test_the_store_is_read_from_redis_url_and_its_file_too(write: Write, tmp_path: Path) -> None:
    path = write("redis_url: redis://file:1\n")
    assert load(path, {}).redis_url == "redis://file:1"
    environ = {"REDIS_URL": "redis://plain:1"}
    assert load(path, environ).redis_url == "redis://plain:1"
    (tmp_path / "url").write_text("redis://:secret@of-a-file:1\n")
    environ["REDIS_URL_FILE"] = str(tmp_path / "url")
    assert load(path, environ).redis_url == "redis://:secret@of-a-file:1"
    environ["SLUICE_REDIS_URL"] = "redis://ours:1"
    assert load(path, environ).redis_url == "redis://ours:1"


def test_replicas_are_adopted_by_url_under_stable_ids(write: Write) -> None:
    secret = write("top-secret\n", "node-1")
    path = write(
        f"""
models:
  llama2-70b:
    engine: sglang
    hardware: mi355x
    max_running: 300
    served_name: meta/llama
    replicas:
      - {{url: "http://node-1:30000/", site: us, api_key_file: {secret.name}}}
      - {{url: "http://node-2:30000", max_running: 5, api_key_env: NODE_2}}
"""
    )
    first, second = load(path, {"NODE_2": "two"}).adopted_replicas()
    assert first.id == replica_id("llama2-70b", "http://node-1:30000") != second.id
    assert (first.url, first.site, first.engine_model) == (
        "http://node-1:30000",
        "us",
        "meta/llama",
    )
    assert (first.max_running, second.max_running) == (300, 5)
    assert (first.api_key, second.api_key) == ("top-secret", "two")


def test_a_class_is_laid_over_the_default_one(write: Write) -> None:
    path = write(
        "classes:\n  server: {patience_s: 1}\n  gold: {rank: 0, targets: {m: {ttft_ms: 300}}}\n"
    )
    classes = load(path, {}).classes_by_name()
    assert (classes["server"].patience_s, classes["server"].rank) == (1.0, 1)
    assert classes["server"].targets("llama2-70b").ttft_s == 2.0
    assert classes["gold"].targets("m").ttft_s == 0.3
    assert classes["gold"].targets("other").ttft_s is None


def test_values_are_filled_in_from_the_environment(write: Write) -> None:
    path = write(
        "host: ${HOST}\nport: ${PORT}\nadmin_key: ${KEY:-}${OTHER}\n"
        "telemetry: {service_name: 'a$$b-${NAME:-c}'}\n"
    )
    settings = load(path, {"HOST": "127.0.0.2", "PORT": "81", "OTHER": "s"})
    assert (settings.host, settings.port) == ("127.0.0.2", 81)
    assert settings.telemetry.service_name == "a$b-c"
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == "s"


def test_nothing_changes_after_reading() -> None:
    settings = load(None, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.limits.connections = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.models["x"] = settings.models  # type: ignore[index]


@pytest.mark.parametrize(("text", "why"), [(None, "cannot be read"), (" \n", "is empty")])
def test_a_file_of_the_store_s_url_that_holds_none_is_told(
    tmp_path: Path, text: str | None, why: str
) -> None:
    path = tmp_path / "url"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=f"REDIS_URL_FILE: {path} {why}"):
        load(None, {"REDIS_URL_FILE": str(path)})


def test_secrets_are_masked_when_shown(write: Write) -> None:
    path = write("models: {m: {replicas: [{url: 'http://n', api_key: '${K}'}]}}\n")
    environ = {"K": "hidden-1", "SLUICE_ADMIN_KEY": "hidden-2", "REDIS_URL": "redis://u:hidden-3@h"}
    settings = load(path, environ)
    assert "hidden" not in effective(settings)
    assert "hidden" not in repr(settings)
    assert "redis://u:***@h" in effective(settings)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("prot: 1", ":1: prot: unknown key; did you mean 'port'? allowed: admin_host"),
        ("\nport: many", ":2: port: found 'many'; allowed: a whole number"),
        ("port: 70000", ":1: port: found 70000; allowed: less than or equal to 65535"),
        ("limits:\n  bodybytes: 1", ":2: limits.bodybytes: unknown key; did you mean 'body_bytes'"),
        ("limits: 5", ":1: limits: found 5; allowed: a mapping of keys"),
        ("no_auth: perhaps", ":1: no_auth: found 'perhaps'; allowed: true or false"),
        ("no_auth: true\nhost: 0.0.0.0", ":1: no_auth: found True; allowed only with a loopback"),
        ("default_class: x", ":1: default_class: found 'x'; allowed: interactive, server, offline"),
        (
            "classes:\n server: {demote_to: offline, when_late: serve}",
            ":2: classes.server.when_late: found 'serve'; allowed with demote_to: refuse",
        ),
        ("classes: {server: {when_late: soon}}", "found 'soon'; allowed: 'refuse' or 'serve'"),
        ("redis_url: http://h", ":1: redis_url: found 'http://h'; allowed: redis://host:port"),
        ("telemetry: {log_level: loud}", "telemetry.log_level: found 'loud'; allowed: 'debug', "),
        ("classes: {x: {}}", ":1: classes.x.rank: missing; Lower is served first."),
        ("models: {'a b': {}}", ":1: models.a b: found {}; allowed: printable ASCII"),
        ("models:\n m:\n  engine: vllm", ":3: models.m.engine: found 'vllm'; allowed: 'sglang'"),
        ("models: {m: {replicas: [{url: 'n:1'}]}}", "replicas[0].url: found 'n:1'; allowed: http:"),
        ("models: {m: {replicas: [{}]}}", "models.m.replicas[0].url: missing; Base URL"),
        (
            "models: {m: {replicas: [{url: 'http://n'}, {url: 'http://n/'}]}}",
            "models.m.replicas[1].url: found 'http://n'; allowed: each URL once",
        ),
        ("admin_key: abc", ":1: admin_key: found a secret in plain words; allowed: ${VARIABLE}"),
        ("redis_url: 'redis://u:p@h'", ":1: redis_url: found a secret in plain words"),
        ("admin_key_file: nowhere", ":1: admin_key_file: found 'nowhere'; the file nowhere is"),
        (
            "models: {m: {replicas: [{url: 'http://n', api_key_env: NONE}]}}",
            "api_key_env: found 'NONE'; the environment variable NONE is not set",
        ),
        ("admin_key: ${NONE}", ":1: the environment variable NONE is not set"),
        ("host: ${", ":1: found '${'; write ${NAME}"),
        ("port: 1\nhost: a\nport: 2", ":3: the key 'port' is on line 1 too"),
        ("port: [1", ":1: not YAML: "),
        ("- 1", ":1: found list; allowed: a mapping of keys"),
        ("limits: &a {body_bytes: *a}", ":1: an alias that contains itself"),
        ("queue: {retry_after_s: .nan}", "queue.retry_after_s: found nan; allowed: "),
    ],
)
def test_a_fault_is_told_with_its_line_and_what_is_allowed(
    write: Write, text: str, fault: str
) -> None:
    path = write(text)
    (line,) = faults(path)
    assert line.startswith(str(path))
    assert fault in line


def test_all_faults_are_told_at_once_each_where_it_was_said(write: Write) -> None:
    path = write("queue:\n  max_waiting: -1\n  retry_after_s: 5\n")
    found = faults(path, {"SLUICE_QUEUE__RETRY_AFTER_S": "x", "SLUICE_NONE": "1"}, port=-1)
    assert {line.split(": ")[0] for line in found} == {
        f"{path}:2",
        "SLUICE_QUEUE__RETRY_AFTER_S",
        "SLUICE_NONE",
        "--port",
    }


def test_a_wrong_secret_is_not_shown(write: Write) -> None:
    (line,) = faults(write("admin_key: [hidden]"))
    assert "hidden" not in line


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    (line,) = faults(tmp_path / "none.yaml")
    assert line == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"


def test_merged_keys_know_their_own_lines() -> None:
    document = parse("a: &a\n  x: 1\nb:\n  <<: *a\n  y: 2\n", "f", {})
    assert document.value == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
    assert document.place(("b", "y", "deeper")) == "f:5"


@pytest.mark.parametrize("text", ["? [a]\n: 1", "a: 2026-02-31", "a: !!python/object:x {}"])
def test_what_yaml_can_say_and_we_cannot_use_is_refused(text: str) -> None:
    with pytest.raises(FileError, match=r"^f:1: "):
        parse(text, "f", {})


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
        ("127.0.0.1.nip.io", False),
    ],
)
def test_loopback_is_told_from_the_world(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_the_documented_settings_are_those_that_there_are() -> None:
    assert reference() in DOCS.read_text(), "write it anew: sluice check --reference"
