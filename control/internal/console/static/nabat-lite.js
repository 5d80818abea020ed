// The client protocol in a small class: one WebSocket, its rooms, and coming
// back as the server asks. proto/PROTOCOL.md describes every frame.

// Connection emits: state {state, seconds}, connected {session, node, rooms},
// message {room, offset, data|text|base64, event, user}, gap {room, reason}, error {code, reason}.
export class Connection extends EventTarget {
  constructor(edge) {
    super();
    this.url = edge.replace(/^http/, 'ws') + '/ws';
    this.rooms = new Map(); // room → what to ask for when joining: {} or {since} at first, then the position
    this.attempt = 0;
    this.nextId = 1;
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    this.tell('state', { state: 'connecting' });
    this.live = false;
    this.socket = new WebSocket(this.url, ['nabat.v1.json']);
    this.socket.onopen = () => this.send('connect', { away_ms: this.away(), rooms: [...this.rooms].map(([room, want]) => ({ room, ...want })) });
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
      for (const [room, want] of this.rooms) if (!joined.has(room)) this.send('subscribe', { rooms: [{ room, ...want }] });
      for (const room of joined) if (!this.rooms.has(room)) this.send('unsubscribe', { rooms: [room] });
      this.stand(frame.connected.rooms);
    } else if (frame.subscribed) this.stand(frame.subscribed.rooms);
    else if (frame.room) {
      const at = this.rooms.get(frame.room);
      if (at?.epoch && frame.offset) at.offset = frame.offset;
      this.tell('message', frame);
    } else if (frame.reset) this.stand([frame.reset]);
    else if (frame.gap) this.tell('gap', frame.gap);
    else if (frame.error) this.tell('error', frame.error);
  }

  // stand notes the positions that the server told: what follows is behind them.
  stand(list) {
    for (const { room, epoch, offset, recovered, reason } of list) {
      if (!this.rooms.has(room)) continue;
      this.rooms.set(room, epoch ? { epoch, offset } : {});
      if (recovered === false) this.tell('gap', { room, reason });
    }
  }

  // away is how long the connection was down, in milliseconds; 0 at first.
  away() { return this.lost ? Math.round(performance.now() - this.lost) : 0; }

  // closed decides by the code whether and when to come back:
  // 4000–4099 never, 4200–4299 at once, anything else after a pause that grows.
  closed(event) {
    if (this.live) this.lost = performance.now();
    this.live = false;
    let advice = {};
    try { advice = JSON.parse(event.reason); } catch { /* not from the edge */ }
    if (event.code >= 4000 && event.code < 4100 && event.code !== 4001) {
      this.tell('state', { state: 'stopped', code: advice.code || event.code });
      return;
    }
    const grown = Math.min(500 * 2 ** this.attempt++, 15000);
    const pause = event.code >= 4200 && event.code < 4300 ? (advice.retry_ms || 0) : Math.max(grown, advice.retry_ms || 0);
    const wait = pause * (1 + Math.random() / 2); // never before the server said
    const until = performance.now() + wait;
    const tick = () => {
      const left = until - performance.now();
      if (left <= 0) { this.open(); return; }
      this.tell('state', { state: 'waiting', seconds: Math.ceil(left / 1000) });
      this.timer = setTimeout(tick, Math.min(left, 1000));
    };
    tick();
  }

  // join begins with what want asks for, such as { since: '1h' } or { latest: true }.
  join(room, want = {}) {
    this.rooms.set(room, want);
    if (this.live) this.send('subscribe', { rooms: [{ room, ...want }] });
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
