// A client of pgbridge's stream for browsers and Node. It delivers each event once and in order, across
// reconnects. docs/stream.md describes the protocol.
//
//   const bridge = new PgBridge('wss://example.org/ws', {
//     token: '…',
//     events: ['ticket.*', 'user.created'],      // default: all
//     onEvent: (event) => console.log(event.id, event.type, event.payload),
//     onGap: (gap) => location.reload(),         // some missed events have expired
//     onState: (state, reason) => console.log(state, reason),
//   });
//   bridge.close();
//
// States: connecting, open, waiting (will reconnect), closed (will not: close() was called, or the
// bridge rejected the client; the reason says why).

const HANDSHAKE_SECONDS = 15; // until the welcome
const RETRY_SECONDS = [0.2, 5]; // pause before reconnecting: first, longest
const REFUSED = 1008; // close code: a retry would fail again
// Exceptions: the token or ticket arrived too late, over a very slow connection.
const LATE = ['Missing API token', 'Invalid or expired ticket'];

export class PgBridge {
  // Further options:
  //   getTicket: instead of token, an async function that returns a ticket for one connection. Your
  //     server requests it with POST /ws/tickets, so the page never sees the token.
  //   since: the id after which to start; by default, only new events.
  //   tokenInUrl: send the token in the URL instead of a message. URLs end up in access logs.
  //   pingSeconds, silentSeconds: how often to ping; how long to wait for any message.
  //   WebSocket: the constructor, if there is no global one (Node before 22: use that of `ws`).
  constructor(url, options = {}) {
    if (!options.token && !options.getTicket) throw new Error('token or getTicket is needed');
    this.url = url;
    this.options = { pingSeconds: 30, silentSeconds: 75, WebSocket: globalThis.WebSocket, ...options };
    this.since = options.since ?? undefined; // the last known id, to resume from
    this.failures = 0;
    this.closed = false;
    this.connect();
  }

  close() {
    this.end('close() was called');
  }

  connect() {
    this.options.onState?.('connecting');
    if (this.closed) return;
    this.welcomed = false;
    this.heardAt = this.pingedAt = Date.now();
    this.watch = setInterval(() => this.look(), 1000);
    if (!this.options.getTicket) return this.open();
    // If the ticket takes too long, request another one and ignore the first.
    const asked = (this.asked = this.options.getTicket());
    asked.then(
      (ticket) => asked === this.asked && this.open(ticket),
      (error) => asked === this.asked && this.lost(`no ticket: ${error.message}`),
    );
  }

  open(ticket) {
    const { token, tokenInUrl, events, WebSocket } = this.options;
    const url = new URL(this.url);
    if (ticket) url.searchParams.set('ticket', ticket);
    else if (tokenInUrl) url.searchParams.set('token', token);
    // In the URL rather than in messages, so that no event arrives before them.
    if (events) url.searchParams.set('events', events.join(','));
    if (this.since !== undefined) url.searchParams.set('since', this.since);
    const socket = (this.socket = new WebSocket(url.href));
    socket.onopen = () => {
      if (!ticket && !tokenInUrl) socket.send(JSON.stringify({ type: 'auth', token }));
    };
    socket.onmessage = ({ data }) => {
      this.heardAt = Date.now();
      this.take(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      if (code === REFUSED && !LATE.includes(reason)) this.end(reason);
      else this.lost(reason || `closed with ${code}`);
    };
    socket.onerror = () => this.lost('the connection failed'); // some versions of Node do not also close
  }

  take(message) {
    if ('payload' in message) {
      // An event, whatever its type. Drop it if it was seen before.
      if (this.since !== undefined && message.id <= this.since) return;
      this.since = message.id;
      this.options.onEvent?.(message);
    } else if (message.type === 'connection') {
      // From here on nothing is missed, even if the connection breaks before the first event.
      this.since ??= message.last_event_id;
      this.welcomed = true;
      this.failures = 0;
      this.options.onState?.('open');
    } else if (message.type === 'resumed') {
      this.since = Math.max(this.since, message.to);
    } else if (message.type === 'gap') {
      // This may go back: a restored database reuses ids.
      this.since = message.available_from - 1;
      this.options.onGap?.(message);
    } else if (message.type === 'error' && /^(bad_events|bad_since|forbidden)$/.test(message.code)) {
      this.end(message.message); // the bridge rejected the subscription
    } // Other types may be added: ignore them.
  }

  // Browsers do not expose protocol pings, and a vanished peer does not close the connection. So ping,
  // and expect to receive something.
  look() {
    const now = Date.now();
    const patience = this.welcomed ? this.options.silentSeconds : HANDSHAKE_SECONDS;
    if (now - this.heardAt > patience * 1000) {
      this.lost('no message received');
    } else if (this.welcomed && now - this.pingedAt > this.options.pingSeconds * 1000) {
      this.pingedAt = now;
      this.socket.send(JSON.stringify({ type: 'ping' }));
    }
  }

  lost(reason) {
    this.drop();
    // Jitter keeps thousands of clients from reconnecting at once after a restart.
    const [from, to] = RETRY_SECONDS;
    const seconds = Math.min(from * 2 ** this.failures++, to) * (0.5 + Math.random() / 2);
    this.retry = setTimeout(() => this.connect(), seconds * 1000);
    this.options.onState?.('waiting', reason);
  }

  end(reason) {
    if (this.closed) return;
    this.closed = true;
    this.drop();
    this.options.onState?.('closed', reason);
  }

  drop() {
    clearInterval(this.watch);
    clearTimeout(this.retry);
    this.asked = null;
    if (!this.socket) return;
    // Do not wait for onclose, which may take minutes if the peer has vanished.
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.onerror = () => {}; // `ws` reports an error when closed before it is open
    this.socket.close();
  }
}
