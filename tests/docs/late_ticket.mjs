// Runs examples/pgbridge.js with a simulated clock, and a server whose first ticket is late:
//   node late_ticket.mjs MODULE
// Prints each state, and the ticket of each connection.

const [module] = process.argv.slice(2);
const { PgBridge } = await import(module);

let now = 0;
const waiting = new Set();
Date.now = () => now;
globalThis.setInterval = globalThis.setTimeout = (act) => {
  const timer = { act };
  waiting.add(timer);
  return timer;
};
globalThis.clearInterval = globalThis.clearTimeout = (timer) => waiting.delete(timer);

const tickets = [];
class Socket {
  constructor(url) {
    console.log('opens with', new URL(url).searchParams.get('ticket'));
  }
  close() {}
}

new PgBridge('ws://bridge.test/ws', {
  getTicket: () => new Promise((resolve) => tickets.push(resolve)),
  WebSocket: Socket,
  onState: (state, reason) => console.log(state, reason ?? ''),
});
const pass = async (milliseconds) => {
  now += milliseconds;
  for (const timer of [...waiting]) timer.act();
  await null;
};
await pass(14_000);
await pass(2_000); // times out
await pass(1_000); // requests another ticket
tickets[0]('first');
tickets[1]('second');
await null;
await null;
