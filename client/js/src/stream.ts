import { json } from './codec.js';
import type { Link, LinkEvents, Patience } from './link.js';
import { cursorOf, endOf, statusOf, type End, type ErrorBody, type Frame } from './protocol.js';
import type { RoomRequest } from './room.js';

/** What an event stream joins. */
export interface StreamRequest {
  url: string;
  token: string;
  rooms: RoomRequest[];
}

/**
 * Stream is a link over server-sent events, for networks that do not let
 * WebSockets pass. It receives only. fetch reads it: EventSource hides why it
 * was refused, and cannot name a token outside of the URL.
 */
export class Stream implements Link {
  readonly receiveOnly = true;
  readonly #abort = new AbortController();
  readonly #events: LinkEvents;
  readonly #patience: Patience;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #over = false;

  constructor(request: StreamRequest, patience: Patience, events: LinkEvents) {
    this.#events = events;
    this.#patience = patience;
    this.#expect(patience.open);
    this.#run(request).then(
      (end) => this.#end(end),
      (error: unknown) => this.#end({ status: 1006, code: '', retryMs: 0, reason: String(error) }),
    );
  }

  send(): void {
    // Its owner knows that it cannot.
  }

  close(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  async #run(request: StreamRequest): Promise<End> {
    const url = new URL(request.url);
    for (const p of request.rooms) url.searchParams.append('room', p.room);
    // It is for all rooms of a stream, and refuses those where it is not allowed.
    if (request.rooms.every((p) => p.presence)) url.searchParams.set('presence', '1');
    const cursor = cursorOf(request.rooms);
    if (cursor) url.searchParams.set('last_event_id', cursor);
    const headers: Record<string, string> = { Accept: 'text/event-stream' };
    if (request.token) headers.Authorization = `Bearer ${request.token}`;
    const response = await fetch(url, { headers, signal: this.#abort.signal, cache: 'no-store' });
    if (response.status !== 200 || !response.body) return refusal(response.status, await response.text());
    if (this.#over) return broke;
    this.#events.opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new EventParser();
    for (;;) {
      // The edge says something every 25 s.
      this.#expect(this.#patience.ping + this.#patience.pong);
      const { value, done } = await reader.read();
      if (done || this.#over) return broke;
      for (const { event, data } of parser.push(value)) {
        const frame = json.decode(data) as Frame & { code?: string; retry_ms?: number };
        // Publishers name events as they like: what has a room is a message.
        if (event === 'close' && frame.room === undefined && typeof frame.code === 'string') {
          const said = { code: frame.code, retryMs: frame.retry_ms ?? 0 };
          return endOf(statusOf(said), data);
        }
        this.#events.received(frame);
        if (this.#over) return broke;
      }
    }
  }

  #expect(ms: number): void {
    clearTimeout(this.#timer);
    if (!this.#over) this.#timer = setTimeout(() => this.#abort.abort(new Error('the stream is silent')), ms);
  }

  #end(end: End): void {
    if (this.#over) return;
    this.close();
    this.#events.ended(end);
  }
}

const broke: End = { status: 1006, code: '', retryMs: 0, reason: 'the stream ended' };

/** refusal judges an HTTP answer by the error in it, else by its status. */
function refusal(status: number, body: string): End {
  try {
    const { error } = JSON.parse(body) as { error: ErrorBody };
    const said = { code: error.code, retryMs: error.retry_ms };
    return { ...said, status: statusOf(said), reason: error.reason };
  } catch {
    // Not the edge's: a proxy answered.
    const passing = status >= 500 || status === 429;
    return { status: passing ? 1006 : 4000, code: '', retryMs: 0, reason: `HTTP status ${status}` };
  }
}

/** EventParser cuts text into events (WHATWG HTML, server-sent events). */
export class EventParser {
  #rest = '';
  #event = '';
  #data: string[] = [];

  push(text: string): { event: string; data: string }[] {
    const events: { event: string; data: string }[] = [];
    const lines = (this.#rest + text).split('\n'); // the edge writes no CR
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line === '') {
        if (this.#data.length > 0) events.push({ event: this.#event, data: this.#data.join('\n') });
        this.#event = '';
        this.#data = [];
      } else if (line.startsWith('data:')) {
        this.#data.push(line.slice(5).replace(/^ /, ''));
      } else if (line.startsWith('event:')) {
        this.#event = line.slice(6).replace(/^ /, '');
      }
    }
    return events;
  }
}
