// An operator in a browser, written against the wire contract alone: MQTT over WebSocket, Ed25519 by WebCrypto,
// RTCPeerConnection as it comes.  openExec() runs one command on a device.
"use strict";

const text = new TextEncoder();

function base64url(bytes) {
  return btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

function fromBase64url(value) {
  return Uint8Array.from(atob(value.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
}

async function sha256(value) {
  return base64url(await crypto.subtle.digest("SHA-256", text.encode(value)));
}

// RFC 7638: the members in lexical order, no white space.
function thumbprint(jwk) {
  return sha256(JSON.stringify({ crv: jwk.crv, kty: jwk.kty, x: jwk.x }));
}

async function sign(claims, key, kid) {
  const header = base64url(text.encode(JSON.stringify({ alg: "EdDSA", typ: "edgeice+jws", kid })));
  const input = `${header}.${base64url(text.encode(JSON.stringify(claims)))}`;
  return `${input}.${base64url(await crypto.subtle.sign("Ed25519", key, text.encode(input)))}`;
}

async function verify(jws, jwk) {
  const [header, payload, signature] = jws.split(".");
  const key = await crypto.subtle.importKey("jwk", { kty: "OKP", crv: "Ed25519", x: jwk.x }, "Ed25519", false, ["verify"]);
  const good = await crypto.subtle.verify("Ed25519", key, fromBase64url(signature), text.encode(`${header}.${payload}`));
  const { alg, typ, kid } = JSON.parse(new TextDecoder().decode(fromBase64url(header)));
  if (!good || alg !== "EdDSA" || typ !== "edgeice+jws" || kid !== (await thumbprint(jwk))) throw new Error("bad signature");
}

function claimsOf(jws) {
  return JSON.parse(new TextDecoder().decode(fromBase64url(jws.split(".")[1])));
}

// config: {url, username, password, root, fleet, operator, device, jwk (private), deviceX, argv, stdin, want}
async function openExec(config) {
  const { root, fleet, operator, device } = config;
  const me = `${fleet}/o/${operator}`;
  const peer = `${fleet}/d/${device}`;
  const key = await crypto.subtle.importKey("jwk", config.jwk, "Ed25519", false, ["sign"]);
  const kid = await thumbprint(config.jwk);
  const deviceJwk = { kty: "OKP", crv: "Ed25519", x: config.deviceX };
  const client = mqtt.connect(config.url, {
    username: config.username,
    password: config.password,
    protocolVersion: 5,
    clientId: `edgeice:${fleet}:o:${operator}:browser`,
    reconnectPeriod: 0,
  });
  const pc = new RTCPeerConnection();
  try {
    return await new Promise((resolve, reject) => {
      const infoTopic = `${root}/${peer}/info`;
      const rxTopic = `${root}/${me}/rx/${device}`;
      const txTopic = `${root}/${peer}/rx/${operator}`;
      const sid = base64url(crypto.getRandomValues(new Uint8Array(16)));
      let seq = 0;
      let offerJws = null;
      let answered = false;
      let early = [];
      let ufrag = null;
      const out = { stdout: "", stderr: "" };
      let chain = Promise.resolve();
      const inOrder = (work) => {
        chain = chain.then(work).catch(reject);
      };
      async function send(t, body, extra) {
        const now = Math.floor(Date.now() / 1000);
        const claims = { v: 1, t, iss: me, aud: peer, iat: now, exp: now + 30, sid, gen: 0, seq: seq++, ...extra, body };
        const jws = await sign(claims, key, kid);
        client.publish(txTopic, jws, { qos: 1 });
        return jws;
      }
      function sendCandidates(lines, end) {
        inOrder(() => send("candidates", { ufrag, candidates: lines, end }));
      }
      async function offer(info) {
        pc.createDataChannel("signal", { protocol: "edgeice.signal.1" });
        const channel = pc.createDataChannel("exec", { protocol: "edgeice.exec.1" });
        channel.binaryType = "arraybuffer";
        channel.onopen = () => {
          channel.send(JSON.stringify({ open: { argv: config.argv } }));
          if (config.stdin) channel.send(new Uint8Array([0, ...text.encode(config.stdin)]));
          channel.send(JSON.stringify({ eof: true }));
        };
        let granted = 0;
        channel.onmessage = ({ data }) => {
          if (typeof data === "string") {
            const control = JSON.parse(data);
            if ("exit" in control || "exit_signal" in control || "error" in control) resolve({ ...out, ...control });
            return;
          }
          const bytes = new Uint8Array(data);
          out[bytes[0] === 2 ? "stderr" : "stdout"] += new TextDecoder().decode(bytes.subarray(1));
          granted += bytes.length;
          if (granted >= 32768) {
            channel.send(JSON.stringify({ credit: granted }));
            granted = 0;
          }
        };
        await pc.setLocalDescription(await pc.createOffer());
        ufrag = /a=ice-ufrag:(\S+)/.exec(pc.localDescription.sdp)[1];
        offerJws = await send("offer", { sdp: pc.localDescription.sdp, want: config.want ?? ["exec"] }, { nonce: info.nonce });
      }
      pc.onicecandidate = ({ candidate }) => {
        if (candidate === null) sendCandidates([], true);
        else if (candidate.candidate) sendCandidates([candidate.candidate], false);
      };
      async function addCandidates({ candidates }) {
        for (const candidate of candidates) await pc.addIceCandidate({ candidate, sdpMLineIndex: 0 });
      }
      async function takeSession(jws) {
        await verify(jws, deviceJwk);
        const claims = claimsOf(jws);
        if (claims.sid !== sid || claims.iss !== peer || claims.aud !== me) return;
        if (claims.t === "answer" && !answered) {
          if (claims.re !== (await sha256(offerJws))) throw new Error("answer to another offer");
          answered = true;
          await pc.setRemoteDescription({ type: "answer", sdp: claims.body.sdp });
          for (const body of early) await addCandidates(body);
          early = [];
        } else if (claims.t === "candidates") {
          if (answered) await addCandidates(claims.body);
          else early.push(claims.body);
        } else if (claims.t === "reject") {
          resolve({ reject: claims.body.code, reason: claims.body.reason });
        }
      }
      async function takeInfo(jws) {
        if (offerJws !== null) return;
        const claims = claimsOf(jws);
        await verify(jws, deviceJwk);
        if (claims.iss !== peer || claims.t !== "info") throw new Error("not this device's info");
        await offer(claims.body);
      }
      client.on("error", reject);
      client.on("connect", () => client.subscribe([rxTopic, infoTopic], { qos: 1 }));
      client.on("message", (topic, payload) => {
        const jws = new TextDecoder().decode(payload);
        inOrder(() => (topic === infoTopic ? takeInfo(jws) : takeSession(jws)));
      });
    });
  } finally {
    pc.close();
    client.end(true);
  }
}
