"""Do the pages for operators name files, commands and settings that are there?"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.main import SUBJECTS, main
from tests.deploy.files import ROOT

PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING")),
]
TOP = ("autoscale", "backends", "bench", "compose", "deploy", "docs", "gateway", "loadtest")
PATH = re.compile(rf"`((?:{'|'.join((*TOP, 'tests', 'scripts', 'constraints'))})/[\w./*-]*)`")


def anchors(page: Path) -> set[str]:
    """What may stand behind `#`: headings as GitHub writes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def commands(text: str) -> Iterator[str]:
    """The words behind `sluice` in code spans and blocks."""
    code = re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL)
    for each in code:
        yield from re.findall(r"(?:^|[\s`;|(])(?<!-n )sluice ([a-z]+)\b", each)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_what_is_there(page: Path) -> None:
    text = page.read_text()
    for named in PATH.findall(text):
        found = list(ROOT.glob(named.rstrip("/"))) if "*" in named else [ROOT / named]
        assert found, named
        assert all(each.exists() for each in found), named
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http:", "https:")):
            name, _, anchor = target.partition("#")
            other = page.parent / name if name else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_commands_and_targets_that_are_there(page: Path) -> None:
    text = page.read_text()
    assert set(commands(text)) <= set(SUBJECTS)
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def lines_of(text: str) -> Iterator[list[str]]:
    """The words of each `sluice` line with options in code spans and blocks, `sluice` left out."""
    for code in re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL):
        joined = code.replace("\\\n", " ")
        for line in re.findall(r"(?:^|[`\s|(])sluice ([a-z][^\n`#]* --[^\n`#]*)", joined):
            yield line.split()


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` says of a command, of its action where it has one."""
    action = [word for word in words[1:2] if re.fullmatch(r"[a-z]+", word)]
    with pytest.raises(SystemExit):
        main([words[0], *action, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_options_that_are_there(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in lines_of(page.read_text()):
        shown = help_of(words, capsys)
        for option in re.findall(r"(?<!\S)--[a-z-]+", " ".join(words)):
            assert re.search(rf"{option}(?![a-z-])", shown), (words, option)


def test_the_pages_name_enough_for_these_checks_to_mean_something() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(PATH.findall(text)) > 40
    assert len(set(commands(text))) > 10
    assert len(list(lines_of(text))) > 20


def pinned() -> dict[str, str]:
    """The version of each package in the constraints; of several, the one for Python 3.11."""
    text = (ROOT / "constraints" / "dev.txt").read_text()
    found = re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)(.*)", text, re.MULTILINE)
    return {name: at for name, at, only in found if ">= '3.12'" not in only}


def test_the_dependencies_are_named_with_the_versions_that_are_pinned() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Dependencies")[2]
    named = re.findall(r"([a-z][a-z0-9-]+) (\d[\w.]*\d)", table)
    assert len(named) > 30
    assert {name: at for name, at in named if name in pinned()} == {
        name: pinned()[name] for name, _ in named if name in pinned()
    }


def test_the_keys_of_the_store_are_told() -> None:
    told = set(re.findall(r"`sluice:([a-z-]+)", (ROOT / "ARCHITECTURE.md").read_text()))
    code = [
        each.read_text()
        for package in ("gateway", "backends", "autoscale")
        for kind in ("py", "lua")
        for each in (ROOT / package).rglob(f"*.{kind}")
    ]
    used = {name for text in code for name in re.findall(r"[\"']sluice:([a-z-]+)", text)}
    assert len(used) > 15
    assert used <= told
