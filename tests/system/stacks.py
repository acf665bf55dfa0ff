"""A whole `sluice up` with simulated engines, of which a test may kill parts."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil

from tests.system.test_up import Starter, Up, poll, stop

VIDEO_MODEL = "wan-2.2-t2v-a14b"
CHAT_MODEL = "llama2-70b"


class Deployment:
    """One that runs, with a client that knows its key."""

    def __init__(self, up: Up, ready: dict[str, Any]) -> None:
        self.up = up
        self.client = openai.OpenAI(
            base_url=ready["base_url"], api_key=ready["api_key"], max_retries=8
        )

    def kill(self, word: str) -> None:
        """End the processes whose command line has this word, with -9; there is at least one."""
        victims = [
            each
            for each in self.up.family()
            if word in each.cmdline() and not any("warden" in part for part in each.cmdline())
        ]
        assert victims, [each.cmdline() for each in self.up.family()]
        for each in victims:
            each.send_signal(signal.SIGKILL)

    def kill_store(self) -> None:
        """End the store's server with -9."""
        victims = [each for each in self.up.family() if "server" in _name(each)]
        assert victims, [_name(each) for each in self.up.family()]
        for each in victims:
            os.kill(each.pid, signal.SIGKILL)

    def until_videos(self) -> None:
        """Wait until videos can be made."""

        def known() -> bool:
            return any(each.id == VIDEO_MODEL for each in self.client.models.list())

        poll(known, 90)


def deployments(directory: Path, *words: str) -> Iterator[Deployment]:
    """Give one deployment, and end it."""
    starter = Starter(directory)
    up = starter("--engine", "simulated", *words)
    try:
        yield Deployment(up, up.ready())
    finally:
        for each in starter.started:
            stop(each)


def _name(process: psutil.Process) -> str:
    try:
        return process.name() + " " + (process.cmdline() or [""])[0].rpartition("/")[2]
    except psutil.Error:
        return ""
