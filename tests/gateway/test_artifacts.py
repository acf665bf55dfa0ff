"""One contract for every place where artifacts may lie."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.artifacts import Artifacts, LocalArtifacts, NoArtifact, get, put
from gateway.artifacts_s3 import S3Artifacts
from gateway.settings_jobs import ArtifactSettings


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A real S3-compatible server in a process of its own, with one bucket."""
    code = (
        "import sys; from moto.server import ThreadedMotoServer as S;"
        "s = S(ip_address='127.0.0.1', port=0, verbose=False); s.start();"
        "print(s.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"},
    ) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        made = urllib.request.Request(f"{url}/bucket", method="PUT")
        with urllib.request.urlopen(made, timeout=30) as answer:
            assert answer.status == 200
        yield url
        process.kill()


@pytest.fixture(params=["local", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "local":
        return LocalArtifacts(tmp_path)
    settings = ArtifactSettings.model_validate(
        {
            "url": "s3://bucket/some/prefix",
            "endpoint": request.getfixturevalue("s3_endpoint"),
            "access_key_id": "k",
            "secret_access_key": "s",
        }
    )
    return S3Artifacts.of(settings)


async def test_what_is_committed_can_be_read_whole_and_in_part(artifacts: Artifacts) -> None:
    data = os.urandom(300_000)
    draft = artifacts.draft("videos/a/1/video.mp4")
    for start in range(0, len(data), 70_000):
        await draft.write(data[start : start + 70_000])
    written = await draft.commit()
    assert written.size_bytes == len(data) == await artifacts.size("videos/a/1/video.mp4")
    assert await get(artifacts, "videos/a/1/video.mp4") == data
    part = [piece async for piece in artifacts.read("videos/a/1/video.mp4", 100, 250_000)]
    assert b"".join(part) == data[100:250_000]
    rest = [piece async for piece in artifacts.read("videos/a/1/video.mp4", 299_990)]
    assert b"".join(rest) == data[299_990:]


async def test_what_is_not_committed_is_not_there(artifacts: Artifacts) -> None:
    draft = artifacts.draft("videos/b/1/video.mp4")
    await draft.write(b"half")
    with pytest.raises(NoArtifact):
        await artifacts.size("videos/b/1/video.mp4")
    await draft.abandon()
    with pytest.raises(NoArtifact):
        await get(artifacts, "videos/b/1/video.mp4")


async def test_a_path_is_removed_with_all_below_it(artifacts: Artifacts) -> None:
    for name in ("videos/c/1/a", "videos/c/2/b", "videos/d/1/a"):
        await put(artifacts, name, b"x")
    await artifacts.remove("videos/c")
    await artifacts.remove("videos/never")
    left = await artifacts.list_old("videos", time.time() + 60)
    assert [name for name in left if name.split("/")[1] in "cd"] == ["videos/d/1/a"]
    assert await artifacts.list_old("videos", time.time() - 3600) == []


async def test_a_name_cannot_lead_elsewhere(artifacts: Artifacts) -> None:
    for name in ("../x", "/etc/passwd", "a//b", "a/../b", "", "a/.hidden"):
        with pytest.raises(ValueError, match="artifact"):
            artifacts.draft(name)
