"""Operators that share no code with edgeice open exec on the real agent: aiortc, and a page in Chromium."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import FLEET, ROOT, AgentProcess, Device, Operator
from tests.support.chromium import BROWSER, chromium_page

pytestmark = [pytest.mark.slow, pytest.mark.interop]

_INTEROP = Path(__file__).parents[1] / "interop"
_PAGE = _INTEROP / "browser" / "operator.html"
_MQTT_JS = _PAGE.parent / "node_modules" / "mqtt" / "dist" / "mqtt.min.js"

#: Runs a command by an independent operator: fleet, device, operator, and what else goes into the configuration.
Run = Callable[[Fleet, Device, Operator, dict[str, Any]], Awaitable[dict[str, Any]]]


def shared(device: Device, operator: Operator) -> dict[str, Any]:
    return {
        "username": f"{FLEET}/o/{operator.name}",
        "password": "",
        "root": ROOT,
        "fleet": FLEET,
        "operator": operator.name,
        "device": device.name,
    }


async def aiortc_exec(fleet: Fleet, device: Device, operator: Operator, request: dict[str, Any]) -> dict[str, Any]:
    config = {
        **shared(device, operator),
        "host": "127.0.0.1",
        "port": fleet.broker.port,
        "seed": operator.key.seed.hex(),
        "device_x": device.key.x,
        **request,
    }
    with trio.fail_after(15):
        done = await trio.run_process(
            [sys.executable, str(_INTEROP / "operator_aiortc.py"), json.dumps(config)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


async def chromium_exec(fleet: Fleet, device: Device, operator: Operator, request: dict[str, Any]) -> dict[str, Any]:
    config = {
        **shared(device, operator),
        "url": f"ws://127.0.0.1:{fleet.broker.websocket_port}",
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": operator.key.x, "d": operator.key.d},
        "deviceX": device.key.x,
        **request,
    }
    with trio.fail_after(25):
        async with chromium_page(_PAGE) as page:
            result = await page.call("openExec", config)
    assert isinstance(result, dict)
    return result


OPERATORS = pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            aiortc_exec,
            id="aiortc",
            marks=pytest.mark.skipif(find_spec("aiortc") is None, reason="aiortc is not installed"),
        ),
        pytest.param(
            chromium_exec,
            id="chromium",
            marks=[
                pytest.mark.skipif(BROWSER is None, reason="chromium is not installed"),
                pytest.mark.skipif(not _MQTT_JS.exists(), reason="mqtt.js is missing: npm ci in tests/interop/browser"),
            ],
        ),
    ],
)


@OPERATORS
async def test_exec_by_an_independent_operator(fleet: Fleet, run: Run) -> None:
    script = "cat; echo problem >&2; exit 7"
    request = {"argv": ["sh", "-c", script], "stdin": "input\n", "want": ["exec"]}
    result = await run(fleet, fleet.device, fleet.operator, request)
    assert result == {"stdout": "input\n", "stderr": "problem\n", "exit": 7}


@OPERATORS
async def test_much_output_flows_by_credit(fleet: Fleet, run: Run) -> None:
    request = {"argv": ["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"], "stdin": "", "want": ["exec"]}
    result = await run(fleet, fleet.device, fleet.operator, request)
    assert (len(result["stdout"]), result["stderr"], result["exit"]) == (1_000_000, "", 0)


@OPERATORS
async def test_an_independent_operator_is_refused_what_it_may_not(fleet: Fleet, tmp_path: Path, run: Run) -> None:
    device = Device(tmp_path / "pi7", fleet.url, "pi7")
    device.trust(fleet.operator, can="shell")
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        request = {"argv": ["true"], "stdin": "", "want": ["exec"]}
        result = await run(fleet, device, fleet.operator, request)
    assert result["reject"] == "unauthorized"
    assert "exec" in result["reason"]


@pytest.mark.skipif(find_spec("aiortc") is None, reason="aiortc is not installed")
async def test_an_operator_that_cannot_restart_has_its_session_while_its_path_works(
    fleet: Fleet, tmp_path: Path
) -> None:
    """It answers no restart; the device offers some, and says at the end what it did."""
    device = Device(tmp_path / "pi", fleet.url, "unmoved", extra='[limits]\nlost_time = 10\n[trace]\nfile = "trace"\n')
    device.trust(fleet.operator, "exec")
    text = device.config.read_text().replace('["127.0.0.1"]', '["127.0.0.1", "127.0.0.2"]')
    device.config.write_text(text)

    def have(address: str) -> None:
        device.config.write_text(text.replace('["127.0.0.1", "127.0.0.2"]', f'["{address}"]'))
        agent.hang_up()

    async def sleep() -> None:
        with suppress(AssertionError, trio.TooSlowError):  # it is ended, and so is its command
            await aiortc_exec(fleet, device, fleet.operator, {"argv": ["sleep", "60"], "stdin": "", "want": ["exec"]})

    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            await agent.wait_log("^opened ")
            await trio.sleep(4)  # other pairs are released by then
            ((_, used),) = [each["path"].split()[:2] for each in (await agent.status())["sessions"]]
            other = "127.0.0.2" if used.startswith("127.0.0.1:") else "127.0.0.1"
            # One that it does not use goes, and nothing happens.
            have(used.partition(":")[0])
            await agent.wait_log("^reloaded")
            await trio.sleep(0.5)
            assert len((await agent.status())["sessions"]) == 1
            have(other)
            restart = await agent.wait_log(r"^restart .*$")
            assert restart[0].endswith("why=lost")
            ended = await agent.wait_log(r"^ended .*$")
            assert 'why="lost: no path for 10 s"' in ended[0]
            nursery.cancel_scope.cancel()
    (verdict,) = (
        facts
        for line in (device.folder / "trace").read_text().splitlines()
        if (facts := json.loads(line))["name"] == "verdict"
    )
    # The first may expire, and the second be made, in the very moment in which patience ends.
    tried = verdict["recovery"]
    assert 1 <= tried["offered"] <= 2
    assert (tried["refused"], tried["failed"], tried["no_network"]) == (0, 0, 0.0)
