"""`edgeice-agent init`: a device's key and its first configuration."""

from __future__ import annotations

from pathlib import Path

from edgeice.errors import ConfigError
from edgeice.files import read_secret, replace_file
from edgeice.sansio import Entropy
from edgeice.settings import check_broker_url, toml_text
from edgeice.signaling import PrivateKey, check_name

__all__ = ["init"]

_TEMPLATE = """\
# One device.  `edgeice-agent check` says whether this file is right and what the agent would do.
fleet = {fleet}
device = {device}

# Paths start at this file's folder.
# key = "device.key"                  # mode 0600
# trust = "authorized_operators"      # written by `edgeice-agent trust add`
# state = "state"                     # what outlives a restart
# socket = "agent.sock"               # asked by `edgeice-agent status`

[broker]
url = {broker}
# username = "FLEET/d/DEVICE"        # this is the default
# password_file = "broker.password"   # mode 0600
# ca = "ca.pem"                       # instead of the system's authorities
# keepalive = 60                      # seconds
# will_delay = 30                     # seconds until a lost connection is published as lost

[ice]
# stun = ["stun:stun.example.org"]    # found addresses let operators outside reach the device
# exclude = ["wwan*"]                 # interfaces to leave out; `edgeice-agent check` says which are, and why
# include = ["wg0"]                   # interfaces to use although they are left out by default
# only = ["eth*", "end*"]             # interfaces to use, and no others
# networks = ["192.0.2.0/24"]         # networks to use addresses of, and no others
# exclude_networks = ["fd00::/8"]     # networks whose addresses are left out
# peer_networks = ["10.0.0.0/8"]      # networks that checks go to, and no others
# exclude_peer_networks = ["10.9.0.0/16"]   # networks that no check goes to, whatever a peer names
# ports = "40000-40099"               # UDP ports that a firewall lets through
# public = {{ "10.0.0.5" = "198.51.100.5" }}   # a NAT maps this device's address one to one, ports kept
# policy = "all"                      # "no-host" tells operators no address of this device's own, "relay" none at all
# resolve_names = true                # look up, on the local network, the .local names that browsers give for addresses

[ice.links]                           # interfaces of which the kernel does not know what they are: the class decides
# wired = ["usb0"]                    # which one carries traffic, in the order of these lines
# wifi = ["ath*"]
# other = ["wg0"]
# cellular = ["eth2"]                 # a modem that poses as Ethernet; paid for by volume
# metered = ["wlan1"]                 # paid for by volume: only where nothing else works
# unmetered = ["wwan0"]               # cellular, but not paid for by volume

[turn]
# urls = ["turn:relay.example.org", "turns:relay.example.org"]   # for where no direct path is found
# username = "pi"
# password_file = "relay.password"    # mode 0600
# ca = "relay-ca.pem"                 # of turns: servers, instead of the system's authorities
# issuer = "ssh-ed25519 AAAA…"        # whose short-lived credentials on the device's own `turn` topic are used instead

[services]
# shell = true
# exec = true
# forward = true
# telemetry = true
# user = "pi"                         # whom shells and commands run as, instead of the agent's own user

[limits]
# sessions = 8
# channels = 64                       # of one session
# processes = 16                      # of one session
# lost_time = 600                     # seconds without a path, then a session ends
# idle_time = 0                       # seconds without an open channel, then it ends; 0 is never
# channel_idle_time = 0               # seconds that a shell, command, forward or telemetry may be idle; 0 is for ever
# channel_time = 0                    # seconds that one of them may last; 0 is for ever
# session_time = 0                    # seconds that a session may last; 0 is for ever
# kept_shells = 8                     # shells that go on without their session; 0 keeps none
# kept_shells_per_operator = 4
# kept_time = 28800                   # seconds without anybody attached, then a kept shell ends

[telemetry]
# socket = "telemetry.sock"           # beside the other socket; there while somebody listens, for all to write to
# mounts = ["/"]                      # file systems to tell about, at most 16

[labels]
# site = "roof"

[log]
# level = "info"                      # debug, info, warning, error
# json = false

[trace]
# file = "trace.jsonl"                # what sessions try on their way, and how each went, as JSON lines; mode 0600
# redact = false                      # pseudonyms instead of IP addresses
# size = 16                           # MiB, then it becomes trace.jsonl.1, which replaces the one before
"""


def init(path: Path, fleet: str, device: str, broker: str) -> None:
    """Write a configuration, and a key where there is none yet; raises ConfigError before either is written."""
    check_name(fleet, "fleet")
    check_name(device, "device")
    check_broker_url(broker)
    if path.exists():
        raise ConfigError(f"{path}: exists already; edit or remove it")
    key_path = path.parent / "device.key"
    text = _TEMPLATE.format(fleet=toml_text(fleet), device=toml_text(device), broker=toml_text(broker))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if key_path.exists():
            key = PrivateKey.load(read_secret(key_path, "the device's key"), source=str(key_path))
        else:
            key = PrivateKey.generate(Entropy())
            replace_file(key_path, key.openssh_bytes())
        replace_file(path, text.encode(), 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: cannot be written: {error.strerror}") from None
    print(f"{path}\n{key_path}\ndevice key {key.public.fingerprint}")
    print(f"\nNext:\n  edgeice-agent trust add --config {path} --operator NAME --can shell,exec KEYFILE")
    print(f"  edgeice-agent run --config {path}")
