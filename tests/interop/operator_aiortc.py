"""An operator made of aiortc, paho and cryptography, written against the wire contract alone.

`operator_aiortc.py CONFIG`: CONFIG is JSON with host, port, username, password, root, fleet, operator, device,
seed (hex of the operator's Ed25519 seed), device_x (base64url public key), argv, stdin, want.  Runs the command on
the device and prints one JSON object: stdout, stderr and exit, or reject and reason.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import sys
import time
from typing import Any

import aioice.ice
import paho.mqtt.client as mqtt
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

# aioice passes over loopback addresses, and the device under test has no others.
aioice.ice.get_host_addresses = lambda **_families: ["127.0.0.1"]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def thumbprint(x: str) -> str:
    return b64(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest())


def claims_of(jws: str) -> dict[str, Any]:
    claims = json.loads(unb64(jws.split(".")[1]))
    assert isinstance(claims, dict)
    return claims


class Operator:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(config["seed"]))
        self.kid = thumbprint(b64(self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)))
        self.device_key = Ed25519PublicKey.from_public_bytes(unb64(config["device_x"]))
        self.me = f"{config['fleet']}/o/{config['operator']}"
        self.peer = f"{config['fleet']}/d/{config['device']}"
        self.sid = b64(os.urandom(16))
        self.seq = 0
        self.queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.result: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.pc = RTCPeerConnection()
        self.answered = False
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"edgeice:{config['fleet']}:o:{config['operator']}:aiortc",
            protocol=mqtt.MQTTv5,
        )

    @property
    def topics(self) -> dict[str, str]:
        root, device, operator = self.config["root"], self.config["device"], self.config["operator"]
        return {
            "info": f"{root}/{self.peer}/info",
            "rx": f"{root}/{self.me}/rx/{device}",
            "tx": f"{root}/{self.peer}/rx/{operator}",
        }

    def sign(self, claims: dict[str, Any]) -> str:
        header = b64(json.dumps({"alg": "EdDSA", "typ": "edgeice+jws", "kid": self.kid}).encode())
        signed = f"{header}.{b64(json.dumps(claims).encode())}"
        return f"{signed}.{b64(self.key.sign(signed.encode()))}"

    def verify(self, jws: str) -> dict[str, Any]:
        header, payload, signature = jws.split(".")
        self.device_key.verify(unb64(signature), f"{header}.{payload}".encode())
        values = json.loads(unb64(header))
        assert values["alg"] == "EdDSA"
        assert values["typ"] == "edgeice+jws"
        assert values["kid"] == thumbprint(self.config["device_x"])
        return claims_of(jws)

    def send(self, kind: str, body: dict[str, Any], **extra: Any) -> str:
        now = int(time.time())
        claims = {"v": 1, "t": kind, "iss": self.me, "aud": self.peer, "iat": now, "exp": now + 30, "sid": self.sid}
        jws = self.sign({**claims, "gen": 0, "seq": self.seq, **extra, "body": body})
        self.seq += 1
        expiry = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        expiry.MessageExpiryInterval = 30
        self.client.publish(self.topics["tx"], jws, qos=1, properties=expiry)
        return jws

    def connect(self) -> None:
        loop = asyncio.get_running_loop()

        def on_message(_client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
            loop.call_soon_threadsafe(self.queue.put_nowait, (message.topic, message.payload.decode()))

        def on_connect(client: mqtt.Client, *_: Any) -> None:
            client.subscribe([(self.topics["rx"], 1), (self.topics["info"], 1)])

        self.client.on_message = on_message
        self.client.on_connect = on_connect
        self.client.username_pw_set(self.config["username"], self.config["password"])
        self.client.connect(self.config["host"], self.config["port"])
        self.client.loop_start()

    def open_channels(self) -> None:
        self.pc.createDataChannel("signal", protocol="edgeice.signal.1")
        channel = self.pc.createDataChannel("exec", protocol="edgeice.exec.1")
        output = {"stdout": b"", "stderr": b""}

        @channel.on("open")
        def on_open() -> None:
            channel.send(json.dumps({"open": {"argv": self.config["argv"]}}))
            if self.config.get("stdin"):
                channel.send(b"\0" + self.config["stdin"].encode())
            channel.send(json.dumps({"eof": True}))

        @channel.on("message")
        def on_message(data: str | bytes) -> None:
            if isinstance(data, bytes):
                output["stderr" if data[0] == 2 else "stdout"] += data[1:]
                channel.send(json.dumps({"credit": len(data)}))
                return
            control = json.loads(data)
            if {"exit", "exit_signal", "error"} & control.keys() and not self.result.done():
                shown = {name: value.decode() for name, value in output.items()}
                self.result.set_result({**shown, **control})

    async def run(self) -> dict[str, Any]:
        self.connect()
        offer: str | None = None
        try:
            while not self.result.done():
                get: asyncio.Future[Any] = asyncio.ensure_future(self.queue.get())
                await asyncio.wait([get, self.result], return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    get.cancel()
                    break
                topic, jws = get.result()
                claims = self.verify(jws)
                if topic == self.topics["info"] and offer is None:
                    self.open_channels()
                    await self.pc.setLocalDescription(await self.pc.createOffer())
                    body = {"sdp": self.pc.localDescription.sdp, "want": self.config.get("want", ["exec"])}
                    offer = self.send("offer", body, nonce=claims["body"]["nonce"])
                elif topic == self.topics["rx"] and offer is not None:
                    await self.take(claims, offer)
        finally:
            await self.pc.close()
            self.client.disconnect()
            self.client.loop_stop()
        return self.result.result()

    async def take(self, claims: dict[str, Any], offer: str) -> None:
        assert (claims["iss"], claims["aud"]) == (self.peer, self.me)
        if claims["sid"] != self.sid:
            return  # all processes of one operator share its topic
        body = claims["body"]
        if claims["t"] == "answer" and not self.answered:
            self.answered = True
            assert claims["re"] == b64(hashlib.sha256(offer.encode()).digest())
            await self.pc.setRemoteDescription(RTCSessionDescription(body["sdp"], "answer"))
        elif claims["t"] == "candidates":
            for line in body["candidates"]:
                candidate = candidate_from_sdp(line.split(":", 1)[1])
                candidate.sdpMLineIndex = 0
                await self.pc.addIceCandidate(candidate)
        elif claims["t"] == "reject" and not self.result.done():
            self.result.set_result({"reject": body["code"], "reason": body["reason"]})


async def main() -> None:
    operator = Operator(json.loads(sys.argv[1]))
    print(json.dumps(await asyncio.wait_for(operator.run(), 60)))


if __name__ == "__main__":
    asyncio.run(main())
