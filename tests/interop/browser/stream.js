// An operator in a browser that keeps a numbered stream going over an exec channel, through ICE restarts, by the wire
// contract alone.  It answers the device's restarts, and offers one where the browser says that the path is lost.
// Everything that happens goes to window.out as JSON, with times of the wall clock in seconds.
"use strict";

const RECORD = 32;
const INTERVAL_MS = 10;

// As tests/lab/roaming/stream.py has it: "edge", the number, and what follows from the number.
async function makeRecord(number) {
  const counted = new Uint8Array(8);
  new DataView(counted.buffer).setUint32(4, number);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", counted));
  return new Uint8Array([...text.encode("edge"), ...counted, ...digest.subarray(0, RECORD - 12)]);
}

function wall() {
  return (performance.timeOrigin + performance.now()) / 1000;
}

// config: as of openExec, and iceServers, and count (records that may be sent at most).
async function startStream(config) {
  const { root, fleet, operator, device } = config;
  const me = `${fleet}/o/${operator}`;
  const peer = `${fleet}/d/${device}`;
  const out = (message) => window.out(JSON.stringify({ at: wall(), ...message }));
  const key = await crypto.subtle.importKey("jwk", config.jwk, "Ed25519", false, ["sign"]);
  const kid = await thumbprint(config.jwk);
  const deviceJwk = { kty: "OKP", crv: "Ed25519", x: config.deviceX };
  const records = [];
  for (let number = 0; number < config.count; number++) records.push(await makeRecord(number));
  const pc = new RTCPeerConnection({ iceServers: config.iceServers });
  const client = mqtt.connect(config.url, {
    username: config.username,
    protocolVersion: 5,
    clientId: `edgeice:${fleet}:o:${operator}:stream`,
    reconnectPeriod: 500,
    connectTimeout: 3000,
    keepalive: 5,
  });
  const infoTopic = `${root}/${peer}/info`;
  const rxTopic = `${root}/${me}/rx/${device}`;
  const txTopic = `${root}/${peer}/rx/${operator}`;
  const sid = base64url(crypto.getRandomValues(new Uint8Array(16)));
  const sent = [];
  const seen = new Set();
  let seq = 0;
  let gen = 0; // the highest that was sent or received
  let offered = null; // our own offer that is not answered: {gen, jws}
  let described = new Map(); // generation by our own ufrag
  let begun = false;
  let signal = null;
  let early = [];
  let chain = Promise.resolve();
  const inOrder = (work) => {
    chain = chain.then(work).catch((error) => out({ name: "error", error: String(error) }));
  };

  async function send(t, number, body, extra) {
    const now = Math.floor(Date.now() / 1000);
    const claims = { v: 1, t, iss: me, aud: peer, iat: now, exp: now + 30, sid, gen: number, seq: seq++, ...extra, body };
    const jws = await sign(claims, key, kid);
    client.publish(txTopic, jws, { qos: 1 });
    if (signal?.readyState === "open") signal.send(jws);
    return jws;
  }

  function describe(number) {
    described.set(/a=ice-ufrag:(\S+)/.exec(pc.localDescription.sdp)[1], number);
    return { sdp: pc.localDescription.sdp };
  }

  async function offer(number, body, extra) {
    gen = number;
    offered = { gen: number, jws: null };
    await pc.setLocalDescription(await pc.createOffer(number ? { iceRestart: true } : {}));
    offered.jws = await send("offer", number, { ...describe(number), ...body }, extra);
  }

  function restart() {
    if (offered === null && begun) offer(gen + 1, {}, {});
  }

  async function addCandidates({ ufrag, candidates }) {
    for (const candidate of candidates) {
      await pc
        .addIceCandidate({ candidate, sdpMLineIndex: 0, usernameFragment: ufrag })
        .catch((error) => out({ name: "candidate", error: String(error) }));
    }
  }

  async function takeOffer(claims, jws) {
    if (claims.gen < gen || (offered !== null && offered.gen === claims.gen)) return; // our own wins
    gen = claims.gen;
    offered = null;
    await pc.setRemoteDescription({ type: "offer", sdp: claims.body.sdp });
    await pc.setLocalDescription(await pc.createAnswer());
    await send("answer", claims.gen, describe(claims.gen), { re: await sha256(jws) });
    await flushEarly();
  }

  async function takeAnswer(claims) {
    if (offered === null || claims.re !== (await sha256(offered.jws))) return;
    offered = null;
    await pc.setRemoteDescription({ type: "answer", sdp: claims.body.sdp });
    await flushEarly();
  }

  async function flushEarly() {
    const held = early;
    early = [];
    for (const body of held) await takeCandidates(body);
  }

  async function takeCandidates(body) {
    if (pc.remoteDescription?.sdp.includes(`a=ice-ufrag:${body.ufrag}`)) await addCandidates(body);
    else early = [...early.slice(-31), body];
  }

  async function take(road, jws) {
    const claims = claimsOf(jws);
    if (claims.sid !== sid || claims.iss !== peer || claims.aud !== me) return;
    await verify(jws, deviceJwk);
    out({ name: "heard", road, t: claims.t, gen: claims.gen });
    if (seen.has(claims.seq)) return;
    seen.add(claims.seq);
    if (claims.t === "offer") await takeOffer(claims, jws);
    else if (claims.t === "answer") await takeAnswer(claims);
    else if (claims.t === "candidates") await takeCandidates(claims.body);
    else out({ name: claims.t, ...claims.body });
  }

  async function takeInfo(jws) {
    if (begun) return;
    const claims = claimsOf(jws);
    await verify(jws, deviceJwk);
    begun = true;
    signal = pc.createDataChannel("signal", { protocol: "edgeice.signal.1" });
    signal.onmessage = ({ data }) => inOrder(() => take("channel", data));
    run(pc.createDataChannel("exec", { protocol: "edgeice.exec.1" }));
    await offer(0, { want: ["exec"] }, { nonce: claims.body.nonce });
  }

  function run(channel) {
    let credit = 262144;
    let taken = 0;
    let told = 0; // records whose times were said
    channel.binaryType = "arraybuffer";
    channel.onmessage = ({ data }) => {
      if (typeof data === "string") {
        const control = JSON.parse(data);
        if ("credit" in control) credit += control.credit;
        out({ name: "control", control });
        return;
      }
      const bytes = new Uint8Array(data);
      out({ name: "data", stream: bytes[0], data: base64url(bytes.subarray(1)), sent: sent.slice(told) });
      told = sent.length;
      taken += bytes.length;
      if (taken >= 32768) {
        channel.send(JSON.stringify({ credit: taken }));
        taken = 0;
      }
    };
    channel.onclose = () => out({ name: "closed" });
    channel.onopen = () => {
      channel.send(JSON.stringify({ open: { argv: config.argv } }));
      const timer = setInterval(() => {
        if (channel.readyState !== "open" || credit < RECORD + 1 || sent.length >= records.length) return;
        credit -= RECORD + 1;
        channel.send(new Uint8Array([0, ...records[sent.length]]));
        sent.push(wall());
      }, INTERVAL_MS);
      window.endStream = () => {
        clearInterval(timer);
        if (channel.readyState === "open") channel.send(JSON.stringify({ eof: true }));
        const untold = sent.slice(told);
        told = sent.length;
        return untold;
      };
    };
  }

  let shown = "";
  setInterval(async () => {
    const stats = await pc.getStats();
    const transport = [...stats.values()].find(({ type }) => type === "transport");
    const pair = transport?.selectedCandidatePairId ?? "";
    if (pair !== shown) out({ name: "pair", pair });
    shown = pair;
  }, 50);
  pc.onconnectionstatechange = () => {
    out({ name: "state", state: pc.connectionState });
    if (["disconnected", "failed"].includes(pc.connectionState)) inOrder(restart);
  };
  pc.onicecandidate = ({ candidate }) => {
    if (!candidate) return; // the ends of generations are not told apart
    const ufrag = candidate.usernameFragment;
    const body = { ufrag, candidates: candidate.candidate ? [candidate.candidate] : [], end: !candidate.candidate };
    inOrder(() => described.has(ufrag) && send("candidates", described.get(ufrag), body));
  };
  client.on("connect", () => client.subscribe([rxTopic, infoTopic], { qos: 1 }));
  client.on("message", (topic, payload) => {
    const jws = new TextDecoder().decode(payload);
    inOrder(() => (topic === infoTopic ? takeInfo(jws) : take("broker", jws)));
  });
}
