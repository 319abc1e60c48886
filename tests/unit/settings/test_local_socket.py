"""Unix sockets of one user."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from edgeice.local_socket import AlreadyServedError, address_of, is_served, listen_local, peer_of


def test_a_socket_of_a_process_that_is_gone_is_replaced_and_one_that_is_served_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    assert not is_served(path)
    listen_local(path, 1).close()
    assert path.is_socket()
    assert not is_served(path)
    with listen_local(path, 1):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(AlreadyServedError):
            listen_local(path, 1)


def test_a_full_backlog_is_no_sign_of_a_dead_process(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with listen_local(path, 0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        assert is_served(path)


def test_of_many_that_start_at_once_one_listens(tmp_path: Path) -> None:
    path, won, lost = tmp_path / "a.sock", list[socket.socket](), list[AlreadyServedError]()
    listen_local(path, 1).close()  # what each of them finds stale at first
    start = threading.Barrier(8)

    def listen() -> None:
        start.wait()
        try:
            won.append(listen_local(path, 64))
        except AlreadyServedError as error:
            lost.append(error)

    threads = [threading.Thread(target=listen) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    won[0].close()


def test_who_is_at_the_other_end_is_known(tmp_path: Path) -> None:
    folder = tmp_path / ("n" * 120)
    folder.mkdir()
    path = folder / "a.sock"
    with listen_local(path, 1) as listener, socket.socket(socket.AF_UNIX) as client:
        with address_of(path) as address:
            client.connect(address)
        server, _ = listener.accept()
        with server:
            assert peer_of(server) == peer_of(client) == (os.getpid(), os.geteuid())
