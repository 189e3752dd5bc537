// A client of pgbridge's stream, for browsers and Node; docs/stream.md has the protocol. Each event
// comes once, in order, over any number of connections:
//
//   const bridge = new PgBridge('wss://example.org/ws', {
//     token: '…',
//     events: ['ticket.*', 'user.created'],      // else all
//     onEvent: (event) => console.log(event.id, event.type, event.payload),
//     onGap: (gap) => location.reload(),         // events between two ids are gone from the log
//     onState: (state, reason) => console.log(state, reason),
//   });
//   bridge.close();
//
// States: connecting, open, waiting (it will connect again), closed (it will not: close() was
// called, or the bridge refuses, and the reason says why).

const HANDSHAKE_SECONDS = 15; // up to the welcome
const RETRY_SECONDS = [0.2, 5]; // between tries to connect: from, to
const REFUSED = 1008; // a close code: connecting again would be no help
// But for these: what was sent came too late, over a very slow line.
const LATE = ['Missing API token', 'Invalid or expired ticket'];

export class PgBridge {
  // Options beside those above:
  //   getTicket: in place of token: an async function that returns a ticket, which opens one
  //     connection. So the page has no token: your server has it, and asks POST /ws/tickets.
  //   since: the id after which to begin; without it, with what is new.
  //   tokenInUrl: send the token in the URL, not in a first message. URLs end up in access logs.
  //   pingSeconds, silentSeconds: how often to say something; how long to hear nothing.
  //   WebSocket: the constructor, where there is no global one (Node before 22: `ws` has one).
  constructor(url, options = {}) {
    if (!options.token && !options.getTicket) throw new Error('token or getTicket is needed');
    this.url = url;
    this.options = { pingSeconds: 30, silentSeconds: 75, WebSocket: globalThis.WebSocket, ...options };
    this.since = options.since ?? undefined; // the last id that is known, and what to resume from
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
    // One that does not come in time is asked for again; should it come after all, it is passed over.
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
    // In the URL rather than in messages: nothing else comes before them.
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
    socket.onerror = () => this.lost('the connection failed'); // not every Node closes, too
  }

  take(message) {
    if ('payload' in message) {
      // An event, whatever its type is called. One that was seen before is not shown again.
      if (this.since !== undefined && message.id <= this.since) return;
      this.since = message.id;
      this.options.onEvent?.(message);
    } else if (message.type === 'connection') {
      // From here on nothing is missed, even if the connection is lost before the first event.
      this.since ??= message.last_event_id;
      this.welcomed = true;
      this.failures = 0;
      this.options.onState?.('open');
    } else if (message.type === 'resumed') {
      this.since = Math.max(this.since, message.to);
    } else if (message.type === 'gap') {
      // Backwards, too: a database that was restored from a backup gives ids out again.
      this.since = message.available_from - 1;
      this.options.onGap?.(message);
    } else if (message.type === 'error' && /^(bad_events|bad_since|forbidden)$/.test(message.code)) {
      this.end(message.message); // what was asked for was refused: not what would come
    } // Other types may be added: ignore them.
  }

  // Browsers show nothing of the protocol's own pings, and a peer that vanished closes nothing. So
  // we say something now and then, and expect to hear something.
  look() {
    const now = Date.now();
    const patience = this.welcomed ? this.options.silentSeconds : HANDSHAKE_SECONDS;
    if (now - this.heardAt > patience * 1000) {
      this.lost('nothing was heard');
    } else if (this.welcomed && now - this.pingedAt > this.options.pingSeconds * 1000) {
      this.pingedAt = now;
      this.socket.send(JSON.stringify({ type: 'ping' }));
    }
  }

  lost(reason) {
    this.drop();
    // Jitter: thousands of clients of a bridge that restarts do not come back all at once.
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
    // Not waiting for onclose: of a peer that vanished it may take minutes to come.
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.onerror = () => {}; // `ws` complains when it is closed before it is open
    this.socket.close();
  }
}
