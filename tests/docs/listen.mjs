// Runs examples/pgbridge.js as a program with the same output as examples/listen.py:
//   node listen.mjs MODULE URL OPTIONS-AS-JSON

import { createRequire } from 'node:module';

const [module, url, options] = process.argv.slice(2);
const { PgBridge } = await import(module);
const { closeAfter, tickets, ...rest } = JSON.parse(options);
const token = process.env.BRIDGE_TOKEN;

// Done by the page's server in production.
async function getTicket() {
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await fetch(tickets, { method: 'POST', headers });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return (await answer.json()).ticket;
}

let events = 0;

const bridge = new PgBridge(url, {
  ...(tickets ? { getTicket } : { token }),
  // Without a global WebSocket, use that of the package ws.
  WebSocket: globalThis.WebSocket ?? createRequire(import.meta.url)('ws'),
  onEvent: ({ id, type, payload }) => {
    console.log(id, type, JSON.stringify(payload));
    events += 1;
    if (events === closeAfter) bridge.close();
  },
  onGap: ({ since }) => console.error('missed events after', since),
  onState: (state, reason) => {
    if (state === 'open') console.error('listening');
    else if (state === 'closed') console.error(`refused: ${reason}`);
    else console.error(state, reason ?? '');
  },
  ...rest,
});
