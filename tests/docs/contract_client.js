// The contract document's JavaScript client, verbatim except for its address, English comments and the
// page's functions. Timers run a hundred times as fast.
const updateDashboard = (payload) => console.log('Dashboard:', JSON.stringify(payload));
const realSetInterval = setInterval;
globalThis.setInterval = (work, milliseconds) => realSetInterval(work, milliseconds / 100);
globalThis.WebSocket ??= require('ws');

const ws = new WebSocket(`ws://localhost:${process.env.BRIDGE_PORT}/ws?token=${process.env.BRIDGE_TOKEN}`);

ws.onopen = () => {
  console.log('Connected');
};

ws.onmessage = (event) => {
  const data = JSON.parse(event.data);
  console.log('Event:', data.type, data.payload);
  
  if (data.type === 'user.created') {
    // A new user
    updateDashboard(data.payload);
  }
};

ws.onerror = (error) => {
  console.error('WebSocket error:', error);
};

ws.onclose = () => {
  console.log('Disconnected');
};

// Ping for keepalive
setInterval(() => {
  if (ws.readyState === WebSocket.OPEN) {
    ws.send(JSON.stringify({ type: 'ping' }));
  }
}, 30000);
