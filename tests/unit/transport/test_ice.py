"""ICE alone on Trio: what its owner hears of the pair that carries data."""

from __future__ import annotations

import trio

from edgeice.peer import PathChanged
from edgeice.transport import IceTransport, NodeConfig, open_node


def introduce(sender: IceTransport, receiver: IceTransport) -> None:
    receiver.set_remote(sender.ufrag, sender.pwd)
    for line in sender.candidates_so_far():
        receiver.add_candidate(line)


async def test_a_watcher_hears_of_the_path_and_of_its_nomination() -> None:
    config = NodeConfig.loopback_only()
    heard: list[PathChanged] = []
    nominated = trio.Event()

    def watch(changed: PathChanged) -> None:
        heard.append(changed)
        if changed.nominated:
            nominated.set()

    async with open_node(config) as here, open_node(config) as there:
        a, b = here.ice_transport(watch, controlling=True), there.ice_transport(controlling=False)
        introduce(a, b)
        introduce(b, a)
        with trio.fail_after(10):
            await a.wait_connected()
            await nominated.wait()
        assert heard[-1] is a.path
        assert heard[-1].nominated
        assert {(changed.path, changed.local_type, changed.remote_type) for changed in heard} == {
            (a.path.path, "host", "host")
        }
