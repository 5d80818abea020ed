// The client protocol in a small class: one WebSocket, its rooms, and coming
// back as the server asks. proto/PROTOCOL.md describes every frame.

// Connection emits: state {state, seconds}, connected {session, node, rooms},
// message {room, data|text|base64, event, user}, gap {room, reason}, error {code, reason}.
export class Connection extends EventTarget {
  constructor(edge) {
    super();
    this.url = edge.replace(/^http/, 'ws') + '/ws';
    this.rooms = new Set();
    this.attempt = 0;
    this.nextId = 1;
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    this.tell('state', { state: 'connecting' });
    this.live = false;
    this.socket = new WebSocket(this.url, ['nabat.v1.json']);
    this.socket.onopen = () => this.send('connect', { rooms: [...this.rooms].map((room) => ({ room })) });
    this.socket.onmessage = (e) => this.take(JSON.parse(e.data));
    this.socket.onclose = (e) => this.closed(e);
  }

  take(frame) {
    if (frame.connected) {
      this.live = true;
      this.attempt = 0;
      this.tell('connected', frame.connected);
      this.tell('state', { state: 'live' });
      // Rooms that were chosen or left while the answer was under way.
      const joined = new Set(frame.connected.rooms.map((r) => r.room));
      for (const room of this.rooms) if (!joined.has(room)) this.send('subscribe', { rooms: [{ room }] });
      for (const room of joined) if (!this.rooms.has(room)) this.send('unsubscribe', { rooms: [room] });
    } else if (frame.room) this.tell('message', frame);
    else if (frame.gap) this.tell('gap', frame.gap);
    else if (frame.error) this.tell('error', frame.error);
  }

  // closed decides by the code whether and when to come back:
  // 4000–4099 never, 4200–4299 at once, anything else after a pause that grows.
  closed(event) {
    this.live = false;
    let advice = {};
    try { advice = JSON.parse(event.reason); } catch { /* not from the edge */ }
    if (event.code >= 4000 && event.code < 4100 && event.code !== 4001) {
      this.tell('state', { state: 'stopped', code: advice.code || event.code });
      return;
    }
    const grown = Math.min(500 * 2 ** this.attempt++, 15000);
    const pause = event.code >= 4200 && event.code < 4300 ? (advice.retry_ms || 0) : Math.max(grown, advice.retry_ms || 0);
    const wait = pause * (0.5 + Math.random() / 2);
    const until = performance.now() + wait;
    const tick = () => {
      const left = until - performance.now();
      if (left <= 0) { this.open(); return; }
      this.tell('state', { state: 'waiting', seconds: Math.ceil(left / 1000) });
      this.timer = setTimeout(tick, Math.min(left, 1000));
    };
    tick();
  }

  join(room) {
    this.rooms.add(room);
    if (this.live) this.send('subscribe', { rooms: [{ room }] });
  }

  leave(room) {
    this.rooms.delete(room);
    if (this.live) this.send('unsubscribe', { rooms: [room] });
  }

  send(verb, body) { this.socket.send(JSON.stringify({ id: this.nextId++, [verb]: body })); }

  tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}

// findEdge asks control where the edge is; by default it is on this host.
export async function findEdge() {
  const { edge } = await (await fetch('/config.json')).json();
  return edge || `${location.protocol}//${location.hostname}:8080`;
}

// showState writes a connection's state into an element, in words.
export function showState(connection, element) {
  connection.addEventListener('state', ({ detail }) => {
    element.dataset.state = detail.state;
    element.textContent = {
      connecting: 'connecting…', live: 'live', waiting: `reconnecting in ${detail.seconds} s`, stopped: `stopped: ${detail.code}`,
    }[detail.state];
  });
}
