// One RTCPeerConnection behind a protocol of JSON lines (see tests/interop/PROTOCOL.md).
"use strict";

function startAdapter(config) {
  const { role } = config;
  const echo = config.echo ?? role === "answer";
  const send = (message) => window.out(JSON.stringify(message));
  const pc = new RTCPeerConnection({ iceServers: config.ice_servers ?? [], iceTransportPolicy: config.policy ?? "all" });
  let channel = null;
  let early = [];
  let chain = Promise.resolve();

  function use(opened) {
    channel = opened;
    const announce = () => send({ type: "state", what: "channel", value: "open" });
    if (channel.readyState === "open") announce();
    else channel.onopen = announce;
    channel.binaryType = "arraybuffer";
    channel.onmessage = ({ data }) => {
      const shown = typeof data === "string" ? data : new TextDecoder("latin1").decode(data);
      send({ type: "message", data: shown });
      if (echo) channel.send(data);
    };
  }

  function place({ address, port }) {
    if (!address) return `hidden:${port}`;
    return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
  }

  // No event tells of a nomination: look again and again.
  async function watchPair() {
    let selected = "";
    let nominated = "";
    while (pc.connectionState !== "closed") {
      const stats = await pc.getStats();
      const transport = [...stats.values()].find(({ type }) => type === "transport");
      const pair = stats.get(transport?.selectedCandidatePairId);
      if (pair) {
        const [local, remote] = [stats.get(pair.localCandidateId), stats.get(pair.remoteCandidateId)];
        const own = ["host", "relay"].includes(local.candidateType);
        const base = own ? local : { address: local.relatedAddress, port: local.relatedPort };
        const now = `${local.candidateType} ${place(base)} -> ${remote.candidateType} ${place(remote)}`;
        if (now !== selected) send({ type: "state", what: "selected", value: now });
        selected = now;
        if (pair.nominated && now !== nominated) {
          send({ type: "state", what: "nominated", value: now });
          nominated = now;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async function describe(type) {
    await pc.setLocalDescription(type === "offer" ? await pc.createOffer() : await pc.createAnswer());
    send({ type, sdp: pc.localDescription.sdp });
  }

  async function take(message) {
    if (message.type === "offer" || message.type === "answer") {
      await pc.setRemoteDescription(message);
      for (const candidate of early) await pc.addIceCandidate(candidate);
      early = [];
      if (message.type === "offer") await describe("answer");
    } else if (message.type === "candidate") {
      const candidate = {
        candidate: message.candidate,
        sdpMid: message.sdpMid ?? "0",
        sdpMLineIndex: message.sdpMLineIndex ?? 0,
      };
      if (pc.remoteDescription) await pc.addIceCandidate(candidate);
      else early.push(candidate);
    } else if (message.type === "message") {
      channel.send(message.data);
    }
  }

  pc.ondatachannel = (event) => use(event.channel);
  pc.onicecandidate = ({ candidate }) =>
    send({
      type: "candidate",
      candidate: candidate?.candidate ?? "",
      sdpMid: candidate?.sdpMid ?? "0",
      sdpMLineIndex: candidate?.sdpMLineIndex ?? 0,
    });
  pc.oniceconnectionstatechange = () => send({ type: "state", what: "ice", value: pc.iceConnectionState });
  pc.onconnectionstatechange = () => send({ type: "state", what: "connection", value: pc.connectionState });
  watchPair();
  window.input = (message) => {
    chain = chain.then(() => take(message)).catch((error) => send({ type: "error", value: String(error) }));
  };
  if (role === "offer") {
    use(pc.createDataChannel("echo"));
    chain = chain.then(() => describe("offer"));
  }
}
