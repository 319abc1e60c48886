"""The MQTT client: paho on Trio, without paho's thread.  Nothing else in edgeice imports paho.

- `client`: what a party uses; keeps a connection up, across reconnections.
- `link`: one connection, from its attempt to its end; drives a paho client.
- `dial`: paho's blocking connect, in a worker thread that can be given up.

Values, events, errors and the bounded queues stand beside this package, in pure modules.
"""

from __future__ import annotations

from edgeice.late import loaded_late

# paho asks them for a proxy, only where PySocks is installed, and for a client id, only where there is none; with them
# would come HTTP and e-mail, 1.5 MiB.
with loaded_late("urllib.request", "uuid"):
    from edgeice.signaling.mqtt.client import MqttClient

__all__ = ["MqttClient"]
