"""The guards that all tests stand under."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.org", 80)])
def test_the_network_is_out_of_reach(address: tuple[str, int]) -> None:
    with pytest.raises(pytest.fail.Exception, match="tried to reach"), socket.socket() as client:
        client.connect(address)
    with pytest.raises(pytest.fail.Exception, match="tried to reach"):
        socket.create_connection(address, timeout=1)


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_the_hub_is_offline() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


@pytest.mark.parametrize("_turn", [1, 2])
def test_seeds_are_fixed(_turn: int) -> None:
    assert random.random() == 0.8444218515250481


def test_missing_shared_data_skips(shared: Callable[..., Path]) -> None:
    with pytest.raises(pytest.skip.Exception, match="set TRANSFERSCOPE_SHARED"):
        shared("no", "such", "file")
