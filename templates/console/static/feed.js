// The live feed: a client of the stream and a list of its events, newest first.

import { PgBridge } from './pgbridge.js';

const MOST_SHOWN = 300; // older events leave the list
const COLOURS = 6;
const MOST_HELD = 5000; // while paused; beyond that the oldest are skipped

const feed = document.getElementById('feed');
const state = document.getElementById('state');
const held = document.getElementById('held');
const none = document.getElementById('none');
const pause = document.getElementById('pause');
const filter = document.getElementById('filter');
const types = document.getElementById('types');
const text = document.getElementById('text');
const words = feed.dataset;

let bridge;
let paused = false;
let waiting = [];
let passedOver = 0;
let fresh = []; // received since the list was last drawn
let drawing = false;
const groups = []; // of event types, in order of appearance; each has a colour

// --- the stream

async function getTicket() {
  const answer = await fetch(words.ticket, {
    method: 'POST', headers: { 'X-CSRF-Token': words.csrf, 'X-Requested-With': 'fetch' },
  });
  // The session is over, or another tab has started a new one and this page belongs to the old one.
  if (answer.status === 401 || answer.status === 403) location.reload();
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return (await answer.json()).ticket;
}

function connect(since) {
  bridge?.close();
  const url = new URL(words.socket, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  const events = types.value.split(',').map((type) => type.trim()).filter(Boolean);
  bridge = new PgBridge(url.href, {
    getTicket,
    since,
    events: events.length ? events : undefined,
    onEvent: take,
    onGap: () => take({ gap: true }),
    onState: (now, reason) => {
      state.dataset.state = now;
      state.textContent = now === 'closed' ? `${words.closed} ${reason}` : words[now];
    },
  });
}

// --- the list

function take(event) {
  if (!paused) {
    fresh.push(event);
    // A hidden tab draws nothing, perhaps for days.
    if (fresh.length > MOST_SHOWN) fresh.shift();
    if (!drawing) requestAnimationFrame(draw);
    drawing = true;
    return;
  }
  waiting.push(event);
  if (waiting.length > MOST_HELD) {
    waiting.shift();
    passedOver += 1;
  }
  tellHeld();
}

function draw() {
  drawing = false;
  const rows = fresh.splice(0).map(row);
  feed.prepend(...rows.reverse());
  while (feed.children.length > MOST_SHOWN) feed.lastElementChild.remove();
  none.hidden = feed.children.length > 0;
}

function row(event) {
  const item = document.createElement('li');
  if (event.gap) {
    item.className = 'gap';
    item.textContent = words.gap;
    return item;
  }
  const details = document.createElement('details');
  const summary = document.createElement('summary');
  const payload = JSON.stringify(event.payload);
  summary.append(
    part('id', `#${event.id}`), time(event.timestamp), type(event.type), part('brief', payload.slice(0, 300)),
  );
  details.append(summary);
  // Render the whole payload only when it is opened.
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) {
      const whole = document.createElement('pre');
      whole.tabIndex = 0;
      whole.textContent = JSON.stringify(event.payload, null, 2);
      details.append(whole);
    }
  });
  item.append(details);
  item.dataset.text = `${event.type} ${payload}`.toLowerCase();
  item.hidden = !item.dataset.text.includes(text.value.toLowerCase());
  return item;
}

function part(name, content) {
  const span = document.createElement('span');
  span.className = name;
  span.textContent = content;
  return span;
}

function type(name) {
  const shown = part('type', name);
  const group = name.split('.')[0];
  if (!groups.includes(group)) groups.push(group);
  shown.dataset.group = groups.indexOf(group) % COLOURS;
  return shown;
}

function time(timestamp) {
  const shown = document.createElement('time');
  shown.dateTime = shown.title = timestamp;
  shown.textContent = new Date(timestamp).toLocaleTimeString(document.documentElement.lang, { hour12: false });
  return shown;
}

function tellHeld() {
  held.hidden = !paused;
  held.textContent = `${words.held} ${waiting.length}.`;
  if (passedOver) held.textContent += ` ${words.passed} ${passedOver}.`;
}

// --- controls

pause.addEventListener('click', () => {
  paused = !paused;
  pause.setAttribute('aria-pressed', paused);
  pause.textContent = paused ? words.resume : words.pause;
  tellHeld();
  if (paused) return;
  const events = waiting;
  waiting = [];
  passedOver = 0;
  events.forEach(take);
});

document.getElementById('clear').addEventListener('click', () => {
  feed.replaceChildren();
  none.hidden = false;
});

text.addEventListener('input', () => {
  const wanted = text.value.toLowerCase();
  for (const item of feed.children) item.hidden = !(item.dataset.text ?? '').includes(wanted);
});

// A new choice of types opens a new connection that resumes where this one was.
types.addEventListener('change', () => types.checkValidity() && connect(bridge.since));
filter.addEventListener('submit', (event) => event.preventDefault());
window.addEventListener('pagehide', () => bridge.close());

connect(Number(words.since));
