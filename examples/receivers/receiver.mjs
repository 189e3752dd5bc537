// Receive webhooks: verify each, drop duplicates, process it, respond.
//
//   WEBHOOK_SECRET=… node examples/receivers/receiver.mjs
//
// It needs only Node 18 or newer. Settings, from the environment:
//
//   WEBHOOK_SECRET           the webhook's secret, whsec_… or any other text
//   WEBHOOK_SECRET_PREVIOUS  also accepted, during a rotation
//   WEBHOOK_SCHEME           standard (webhook-signature), or simple (X-Webhook-Signature)
//   HOST, PORT               listening address: 127.0.0.1, 9000

import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

// Maximum clock difference of a request, to reject replays. Each attempt is signed when it is sent, so
// late retries pass.
const TOLERANCE_SECONDS = 300;
const MOST_BODY_BYTES = 1024 * 1024;
const MOST_IDS = 100_000; // a few MB

// Process an event: replace this with your own code. If it throws, the response is 500 and the delivery
// is repeated. Keep it short, such as an insert into a table, and do slow work from there.
function handle(id, type, payload) {
  console.log(id, type, JSON.stringify(payload));
}

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

// --- Signatures

// Verify a request by Standard Webhooks. The body is the raw bytes; a re-serialised one may differ.
function verify(headers, body, secrets) {
  const timestamp = headers['webhook-timestamp'] ?? '';
  if (!/^\d{1,12}$/.test(timestamp)) {
    throw new Refused(400, 'webhook-timestamp is missing or invalid');
  }
  const signed = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${timestamp}.`, 'latin1'), body]);
  const expected = secrets.map(
    (secret) => 'v1,' + createHmac('sha256', signingKey(secret)).update(signed).digest('base64'),
  );
  // There are several signatures during a rotation. Versions other than v1 never match.
  if (!anyEqual(expected, (headers['webhook-signature'] ?? '').split(' '))) {
    throw new Refused(401, 'the signature does not match a known secret');
  }
  // Check the time after the signature, so that strangers learn nothing about this clock.
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) {
    throw new Refused(401, 'the timestamp is too far from the current time');
  }
}

// Verify a request by the simple scheme. It covers only the body, so a captured request can be replayed
// indefinitely, with any webhook-id.
function verifySimple(headers, body, secrets) {
  const expected = secrets.map(
    (secret) => 'sha256=' + createHmac('sha256', secret).update(body).digest('hex'),
  );
  // For a day after a rotation, there is a second signature with the previous secret.
  const given = [headers['x-webhook-signature'], headers['x-webhook-signature-previous']];
  if (!anyEqual(expected, given.map((each) => each ?? ''))) {
    throw new Refused(401, 'the signature does not match a known secret');
  }
}

// Return the key: a decoded whsec_ secret, or the text itself.
function signingKey(secret) {
  return secret.startsWith('whsec_') ? Buffer.from(secret.slice(6), 'base64') : Buffer.from(secret);
}

// Return whether the lists share an element, comparing in constant time.
function anyEqual(expected, given) {
  const equal = (one, other) => one.length === other.length && timingSafeEqual(one, other);
  return expected.some((one) => given.some((other) => equal(Buffer.from(one), Buffer.from(other))));
}

// --- Duplicates

// Ids of handled deliveries. They are in memory, so a duplicate after a restart is handled again. If that
// matters, use a table with a unique webhook-id, and write to it in the transaction that does the work.
const handled = new Set();

function remember(id) {
  handled.add(id);
  if (handled.size > MOST_IDS) handled.delete(handled.values().next().value); // the oldest
}

// --- HTTP

const { WEBHOOK_SECRET, WEBHOOK_SECRET_PREVIOUS, WEBHOOK_SCHEME = 'standard' } = process.env;
const { HOST = '127.0.0.1', PORT = '9000' } = process.env;
if (!WEBHOOK_SECRET || !['standard', 'simple'].includes(WEBHOOK_SCHEME)) {
  console.error('set WEBHOOK_SECRET to the secret; WEBHOOK_SCHEME must be standard or simple');
  process.exit(1);
}
const secrets = [WEBHOOK_SECRET, WEBHOOK_SECRET_PREVIOUS].filter(Boolean);
const check = WEBHOOK_SCHEME === 'simple' ? verifySimple : verify;

async function read(request, announced) {
  const tooLarge = new Refused(413, `the body exceeds ${MOST_BODY_BYTES} bytes`);
  if (announced > MOST_BODY_BYTES) throw tooLarge;
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MOST_BODY_BYTES) throw tooLarge; // the connection is closed
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function take(request) {
  if (request.method !== 'POST') throw new Refused(405, 'use POST');
  const { headers } = request;
  const id = headers['webhook-id'];
  const body = await read(request, Number(headers['content-length'] ?? 0));
  if (!id) throw new Refused(400, 'webhook-id is missing');
  check(headers, body, secrets);
  let payload;
  try {
    payload = JSON.parse(body.toString('utf8'));
  } catch {
    throw new Refused(400, 'the body is not JSON');
  }
  // No await from here on, so no other request handles the same delivery in between.
  if (handled.has(id)) return;
  handle(id, headers['x-webhook-event'], payload);
  remember(id);
}

const server = createServer(async (request, response) => {
  try {
    await take(request);
    response.writeHead(204).end();
  } catch (error) {
    if (!(error instanceof Refused)) console.error(error);
    const [status, text] = error instanceof Refused ? [error.status, error.message] : [500, 'processing failed'];
    // The unread rest of a body would look like the next request.
    if (!request.complete) response.setHeader('Connection', 'close');
    response.writeHead(status, { 'Content-Type': 'text/plain' }).end(text);
  }
});
server.keepAliveTimeout = 60_000; // keep connections open
server.listen(Number(PORT), HOST, () => {
  console.log(`listening on http://${HOST}:${server.address().port}/`);
});
