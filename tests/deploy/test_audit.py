"""Is an audit without data told from one that has found nothing?"""

from typing import Any

from scripts.audit import Audit, read, told

CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


def of(*dependencies: dict[str, Any]) -> Audit:
    return read({"dependencies": [*dependencies], "fixes": []})


def test_nothing_known_is_a_clean_result_only_when_all_were_looked_up() -> None:
    assert of(CLEAN).status == 0
    assert of(CLEAN, UNKNOWN).status == of(UNKNOWN).status == of().status == 2


def test_what_is_known_outweighs_what_is_not() -> None:
    found = of(CLEAN, BAD, UNKNOWN)
    assert found.status == 1
    assert "b 2: CVE-1, CVE-2" in told("image", found)
    assert "NOT AUDITED: 1" in told("image", found)
