// The API through Node.js clients that this project did not write. `script/interop` installs and runs it.

import assert from "node:assert/strict";
import { connect, createServer } from "node:net";
import { HTTP } from "cloudevents";
import { EventSource } from "eventsource";
import { createRemoteJWKSet, jwtVerify } from "jose";
import * as oauth from "oauth4webapi";
import { Pool } from "undici";

const api = process.env.API;
let failed = false;

/** Runs one check; it fails by an exception. */
async function check(name, step) {
  try {
    await step();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed = true;
    console.log(`FAILED  ${name}: ${error.stack ?? error}`);
  }
}

/** The headers of a logged-in client: the token and its cookie. */
async function logIn() {
  const answer = await fetch(`${api}/login`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ username: "demo", password: "demo-password" }),
  });
  assert.equal(answer.status, 200);
  const [cookie] = answer.headers.getSetCookie()[0].split(";");
  return { authorization: `Bearer ${(await answer.json()).access_token}`, cookie };
}

await check("fetch: a customer is created with a reason, and the history tells both", async () => {
  const headers = { ...(await logIn()), "content-type": "application/json" };
  const body = JSON.stringify({ name: "Łucja Żółć", dob: "1990-12-10" });
  const reason = `UTF-8''${encodeURIComponent("Köln, Łódź")}`;
  const made = await fetch(`${api}/customers`, { method: "POST", headers: { ...headers, "X-Reason*": reason }, body });
  assert.equal(made.status, 201);
  const location = new URL(made.headers.get("location"), api);
  const { history } = await (await fetch(`${location}/history`, { headers })).json();
  assert.equal(history[0].reason, "Köln, Łódź");
  assert.equal(history[0].changes[0].to, "Łucja Żółć");
});

await check("fetch: the stream is read as a browser reads it, until it is aborted", async () => {
  const abort = new AbortController();
  const stream = await fetch(`${api}/events/stream?after=0`, { headers: await logIn(), signal: abort.signal });
  assert.equal(stream.headers.get("content-type"), "text/event-stream");
  let text = "";
  for await (const part of stream.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    if (text.includes("id: 3\n") || text.includes("id:3\n")) break;
  }
  abort.abort();
});

await check("undici: two hundred requests pipelined on two connections", async () => {
  const pool = new Pool(api, { connections: 2, pipelining: 10 });
  const headers = await logIn();
  const answers = Array.from({ length: 200 }, async (_, n) => {
    const { statusCode, body } = await pool.request({ path: `/customers?numbers=${n % 20}`, method: "GET", headers });
    assert.equal(statusCode, 200);
    return (await body.json()).number === n % 20;
  });
  assert.ok((await Promise.all(answers)).every(Boolean));
  await pool.close();
});

await check("eventsource: it reads from a position, and resumes by itself after its connection was cut", async () => {
  const headers = await logIn();
  const { hostname, port } = new URL(api);
  const sockets = [];
  const proxy = createServer((client) => {
    const server = connect(port, hostname);
    sockets.push(client, server);
    for (const socket of [client, server]) socket.on("error", () => {});
    client.pipe(server).pipe(client);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const source = new EventSource(`http://127.0.0.1:${proxy.address().port}/events/stream?after=0`, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...headers } }),
  });
  const ids = [];
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`only ${ids.length} events`)), 20_000);
    source.onmessage = (event) => {
      ids.push(Number(event.lastEventId));
      if (ids.length === 5) sockets.splice(0).forEach((socket) => socket.destroy());
      if (ids.length === 60 || ids.at(-1) >= 1000) resolve();
    };
  });
  source.close();
  proxy.close();
  sockets.forEach((socket) => socket.destroy());
  assert.deepEqual(ids.slice(0, 60), Array.from({ length: 60 }, (_, n) => n + 1));
});

await check("cloudevents: a page of the feed is a batch", async () => {
  const headers = { ...(await logIn()), accept: "application/cloudevents-batch+json" };
  const page = await fetch(`${api}/events?limit=1000`, { headers });
  const message = { headers: { "content-type": page.headers.get("content-type") }, body: await page.text() };
  const events = HTTP.toEvent(message);
  assert.ok(events.length > 100);
  for (const event of events) assert.ok(event.validate());
});

await check("jose: a token is verified with the published keys, and a changed one is not", async () => {
  const token = (await logIn()).authorization.slice("Bearer ".length);
  const keys = createRemoteJWKSet(new URL(`${api}/.well-known/jwks.json`));
  const { payload } = await jwtVerify(token, keys, { issuer: api, audience: "customers" });
  assert.equal(payload.sub, "demo");
  const [head, body, signature] = token.split(".");
  await assert.rejects(jwtVerify([head, `${body.slice(0, -2)}AA`, signature].join("."), keys));
});

/** A service key of an account of its own. */
async function serviceKey(username) {
  const headers = { ...(await logIn()), "content-type": "application/json" };
  const post = (path, body) => fetch(`${api}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  const added = await post("/accounts", { username, password: "a good password", role: "editor" });
  assert.equal(added.status, 201);
  const expires_at = new Date(Date.now() + 86_400_000).toISOString();
  const key = await post(`/accounts/${username}/keys`, { name: "interop", expires_at });
  assert.equal(key.status, 201);
  return key.json();
}

await check("oauth4webapi: it finds the endpoint, gets tokens in both ways, and creates customers", async () => {
  const { client_id, client_secret } = await serviceKey("node");
  const issuer = new URL(api);
  // The service of this suite is on plain http.
  const options = { [oauth.allowInsecureRequests]: true };
  const found = await oauth.discoveryRequest(issuer, { ...options, algorithm: "oauth2" });
  const server = await oauth.processDiscoveryResponse(issuer, found);
  const client = { client_id };
  const grant = async (authentication) => {
    const asked = oauth.clientCredentialsGrantRequest(server, client, authentication, new URLSearchParams(), options);
    return oauth.processClientCredentialsResponse(server, client, await asked);
  };
  for (const method of [oauth.ClientSecretBasic, oauth.ClientSecretPost]) {
    const { access_token, scope } = await grant(method(client_secret));
    assert.equal(scope, "editor");
    const headers = new Headers({ "content-type": "application/json" });
    const body = JSON.stringify({ name: "Grace Hopper", dob: "1906-12-09" });
    const url = new URL(`${api}/customers`);
    const made = await oauth.protectedResourceRequest(access_token, "POST", url, headers, body, options);
    assert.equal(made.status, 201);
  }
  const isInvalid = (error) => error instanceof oauth.ResponseBodyError && error.error === "invalid_client";
  await assert.rejects(grant(oauth.ClientSecretPost(`${client_secret}x`)), isInvalid);
  // The library tells of a 401 by its challenge.
  const isChallenge = (error) =>
    error instanceof oauth.WWWAuthenticateChallengeError && error.status === 401 && error.cause[0].scheme === "basic";
  await assert.rejects(grant(oauth.ClientSecretBasic(`${client_secret}x`)), isChallenge);
});

// Without this line `script/interop` counts the suite as broken off.
console.log("ended");
process.exit(failed ? 1 : 0);
