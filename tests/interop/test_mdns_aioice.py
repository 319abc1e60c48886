"""A name that aioice publishes is found, on a link of this host (draft-ietf-mmusic-mdns-ice-candidates §3.2)."""

from __future__ import annotations

import subprocess
import sys
import uuid

import pytest
import trio

from edgeice.addresses import Base, TransportAddress
from edgeice.net import InterfaceMonitor, InterfacePolicy, usable_addresses
from edgeice.net.mdns import MulticastResolver
from edgeice.sansio import DropCounter

pytestmark = [pytest.mark.interop, pytest.mark.slow]

_PUBLISH = """
import asyncio, sys
from aioice.mdns import create_mdns_protocol
async def main():
    protocol = await create_mdns_protocol()
    await protocol.publish(sys.argv[1], sys.argv[2])
    print("published", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
async def test_mdns_03_a_name_that_aioice_publishes_is_found(nursery: trio.Nursery, address: str) -> None:
    with InterfaceMonitor() as monitor:
        own = [each for each in usable_addresses(monitor.read(), InterfacePolicy()) if ":" not in each.ip]
    if not own:
        pytest.skip("this host has no address but loopback")
    name = f"{uuid.uuid4()}.local"
    send, receive = trio.open_memory_channel[tuple[str, list[str]]](1)
    bases = [Base(TransportAddress(each.ip, 4000), each.interface) for each in own]
    resolver = MulticastResolver(nursery, lambda *answer: send.send_nowait(answer), DropCounter(), lambda: bases)
    command = [sys.executable, "-c", _PUBLISH, name, address]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with trio.fail_after(20):
            assert (await process.stdout.receive_some()).rstrip() == b"published"  # the line's end may come later
            resolver.resolve(name)
            assert await receive.receive() == (name, [address])
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
