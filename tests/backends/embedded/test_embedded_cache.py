"""Does a build appear whole or not at all, once, and under a name that follows its parts?"""

import threading
from pathlib import Path

import pytest

from backends.embedded import cache


def quiet(line: str) -> None:
    """Say nothing."""


def test_a_digest_is_the_same_for_the_same_parts(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("a==1\n")

    assert cache.digest("3.11", pins) == cache.digest("3.11", pins)
    assert cache.digest("3.11", pins) == cache.digest("3.11", "a==1\n")


def test_a_digest_changes_with_any_part(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("a==1\n")
    before = cache.digest("3.11", pins)

    assert cache.digest("3.12", pins) != before
    pins.write_text("a==2\n")
    assert cache.digest("3.11", pins) != before


def test_a_digest_knows_where_one_part_ends() -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLUICE_CACHE_DIR": "/srv/cache", "XDG_CACHE_HOME": "/xdg"}, Path("/srv/cache")),
        ({"XDG_CACHE_HOME": "/xdg"}, Path("/xdg/sluice")),
        ({}, Path.home() / ".cache" / "sluice"),
        ({"SLUICE_CACHE_DIR": ""}, Path.home() / ".cache" / "sluice"),
    ],
)
def test_the_cache_lies_where_the_environment_says(environ: dict[str, str], expected: Path) -> None:
    assert cache.root(environ) == expected


def test_a_build_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "engine-1"
    seen: list[bool] = []

    def build(into: Path) -> None:
        (into / "first").touch()
        seen.append(target.exists())

    assert cache.build_once(target, build, say=quiet)
    assert seen == [False]
    assert [path.name for path in target.iterdir()] == ["first"]


def test_a_build_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    target = tmp_path / "engine-1"
    cache.build_once(target, lambda into: (into / "first").touch(), say=quiet)

    assert not cache.build_once(target, lambda into: pytest.fail("built again"), say=quiet)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "engine-1"

    def build(into: Path) -> None:
        (into / "first").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build_once(target, build, say=quiet)

    assert not target.exists()
    assert list(tmp_path.glob("*.building-*")) == []


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "engine-1"
    leftover = tmp_path / "engine-1.building-dead"
    leftover.mkdir()
    (leftover / "half").touch()

    cache.build_once(target, lambda into: (into / "first").touch(), say=quiet)

    assert not leftover.exists()


def test_a_build_that_broke_is_made_again(tmp_path: Path) -> None:
    target = tmp_path / "engine-1"
    target.mkdir()

    built = cache.build_once(
        target,
        lambda into: (into / "python").touch(),
        is_whole=lambda directory: (directory / "python").exists(),
        say=quiet,
    )

    assert built
    assert (target / "python").exists()


def test_of_two_builders_one_builds_and_both_find_it(tmp_path: Path) -> None:
    target = tmp_path / "engine-1"
    waiting = threading.Event()
    builds: list[str] = []
    outcomes: list[bool] = []
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        waiting.set()

    def build(into: Path) -> None:
        builds.append(into.name)
        assert waiting.wait(30), "the second builder never came to wait"

    def ensure() -> None:
        outcomes.append(cache.build_once(target, build, say=say))

    builders = [threading.Thread(target=ensure) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(30)

    assert len(builds) == 1
    assert sorted(outcomes) == [False, True]
    assert "another process builds it" in lines[0]
