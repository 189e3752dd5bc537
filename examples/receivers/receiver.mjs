// Receives webhooks of pgbridge: verifies each, drops repeats, hands it on, and answers.
//
//   WEBHOOK_SECRET=… node examples/receivers/receiver.mjs
//
// Nothing but Node 18 or newer is needed. Settings, all from the environment:
//
//   WEBHOOK_SECRET           the webhook's secret, whsec_… or any other text
//   WEBHOOK_SECRET_PREVIOUS  one more that is accepted, while the secret is changed
//   WEBHOOK_SCHEME           standard (webhook-signature), or simple (X-Webhook-Signature)
//   HOST, PORT               where to listen: 127.0.0.1, 9000

import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

// A request that was signed longer ago, or so far in the future, is refused as recorded by somebody.
// Each attempt is signed anew when it is sent, so retries are never too old.
const TOLERANCE_SECONDS = 300;
const MOST_BODY_BYTES = 1024 * 1024;
const MOST_IDS = 100_000; // a few MB

// Does what the event is received for: yours to write. What throws is answered 500, and comes again.
// Keep it short, such as an insert into a table of yours: what takes long is done from there.
function handle(id, type, payload) {
  console.log(id, type, JSON.stringify(payload));
}

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

// --- is it genuine?

// Verifies by the scheme of Standard Webhooks. The body is the bytes as they came: parsed and written
// again, they might be others.
function verify(headers, body, secrets) {
  const timestamp = headers['webhook-timestamp'] ?? '';
  if (!/^\d{1,12}$/.test(timestamp)) {
    throw new Refused(400, 'webhook-timestamp is missing, or is no number of seconds');
  }
  const signed = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${timestamp}.`, 'latin1'), body]);
  const expected = secrets.map(
    (secret) => 'v1,' + createHmac('sha256', signingKey(secret)).update(signed).digest('base64'),
  );
  // Several signatures, while the secret is being changed; other versions than v1 match nothing.
  if (!anyEqual(expected, (headers['webhook-signature'] ?? '').split(' '))) {
    throw new Refused(401, 'no signature is by a secret that is known here');
  }
  // Not before the signature: who cannot sign learns nothing about this machine's clock.
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) {
    throw new Refused(401, 'signed too long ago, or in the future');
  }
}

// Verifies by the simple scheme, which signs nothing but the body. Who has recorded a request can send
// it again, at any time and with another webhook-id.
function verifySimple(headers, body, secrets) {
  const expected = secrets.map(
    (secret) => 'sha256=' + createHmac('sha256', secret).update(body).digest('hex'),
  );
  // By the new secret, and for a day after it was changed by the one before as well.
  const given = [headers['x-webhook-signature'], headers['x-webhook-signature-previous']];
  if (!anyEqual(expected, given.map((each) => each ?? ''))) {
    throw new Refused(401, 'no signature is by a secret that is known here');
  }
}

// What a whsec_ secret encodes, or the text itself.
function signingKey(secret) {
  return secret.startsWith('whsec_') ? Buffer.from(secret.slice(6), 'base64') : Buffer.from(secret);
}

// Whether any is any of the other, in a time that does not tell how nearly.
function anyEqual(expected, given) {
  const equal = (one, other) => one.length === other.length && timingSafeEqual(one, other);
  return expected.some((one) => given.some((other) => equal(Buffer.from(one), Buffer.from(other))));
}

// --- repeats

// The ids of what was handled. In memory, so a repeat from before a restart is handled again; where that
// matters, have a table with a unique webhook-id, and write to it in the transaction that does the work.
const handled = new Set();

function remember(id) {
  handled.add(id);
  if (handled.size > MOST_IDS) handled.delete(handled.values().next().value); // the oldest
}

// --- HTTP

const { WEBHOOK_SECRET, WEBHOOK_SECRET_PREVIOUS, WEBHOOK_SCHEME = 'standard' } = process.env;
const { HOST = '127.0.0.1', PORT = '9000' } = process.env;
if (!WEBHOOK_SECRET || !['standard', 'simple'].includes(WEBHOOK_SCHEME)) {
  console.error('set WEBHOOK_SECRET to the secret; WEBHOOK_SCHEME is standard or simple');
  process.exit(1);
}
const secrets = [WEBHOOK_SECRET, WEBHOOK_SECRET_PREVIOUS].filter(Boolean);
const check = WEBHOOK_SCHEME === 'simple' ? verifySimple : verify;

async function read(request, announced) {
  const tooLarge = new Refused(413, `a body may have ${MOST_BODY_BYTES} bytes`);
  if (announced > MOST_BODY_BYTES) throw tooLarge;
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MOST_BODY_BYTES) throw tooLarge; // which also hangs up: nobody announced it
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function take(request) {
  if (request.method !== 'POST') throw new Refused(405, 'POST it');
  const { headers } = request;
  const id = headers['webhook-id'];
  const body = await read(request, Number(headers['content-length'] ?? 0));
  if (!id) throw new Refused(400, 'webhook-id is missing');
  check(headers, body, secrets);
  let payload;
  try {
    payload = JSON.parse(body.toString('utf8'));
  } catch {
    throw new Refused(400, 'the body is no JSON');
  }
  // Nothing is waited for from here on, so nobody handles the same in between.
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
    const [status, text] = error instanceof Refused ? [error.status, error.message] : [500, 'it failed'];
    // A body that was not read to its end would be taken for the next request.
    if (!request.complete) response.setHeader('Connection', 'close');
    response.writeHead(status, { 'Content-Type': 'text/plain' }).end(text);
  }
});
server.keepAliveTimeout = 60_000; // the connection is kept for the next delivery
server.listen(Number(PORT), HOST, () => {
  console.log(`listening on http://${HOST}:${server.address().port}/`);
});
