import type { Command } from './codec.js';
import type { Frame } from './protocol.js';

/** After so many milliseconds nobody answers any more: an edge says something before. */
const patience = 30_000;

/**
 * post publishes by an HTTP request of its own, beside a link that only receives. It
 * answers as an edge does on a connection, also when the request fails: then the
 * message may or may not have been published.
 */
export async function post(address: string, token: string, { fields, body }: Command, over: AbortSignal): Promise<Frame> {
  const { room, ...headers } = fields as { room: string } & Record<string, string | undefined>;
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(new Error('the edge did not answer')), patience);
  const cancel = (): void => abort.abort(over.reason);
  over.addEventListener('abort', cancel);
  try {
    const url = new URL(address);
    url.pathname += encodeURIComponent(room);
    for (const [name, value] of Object.entries(headers)) if (value !== undefined) url.searchParams.set(name, value);
    const [type, content] = contentOf(body!);
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': type, ...(token && { Authorization: `Bearer ${token}` }) },
      body: content,
      cache: 'no-store',
      signal: abort.signal,
    });
    return answerOf(response.status, await response.text());
  } catch (error) {
    if (error instanceof URIError) return { error: { code: 'bad_room', reason: 'a name must be valid UTF-8', retry_ms: 0 } };
    return later(String(error));
  } finally {
    clearTimeout(timer);
    over.removeEventListener('abort', cancel);
  }
}

function contentOf(body: NonNullable<Command['body']>): [string, string | Uint8Array<ArrayBuffer>] {
  if ('json' in body) return ['application/json', body.json];
  if ('text' in body) return ['text/plain; charset=utf-8', body.text];
  return ['application/octet-stream', body.binary.slice()];
}

/** What refuses a request for now, and no command: it is another word for unavailable. */
const passing = new Set(['draining', 'too_many_connections', 'head_timeout', 'body_timeout', 'token_expired']);

const later = (reason: string, ms = 1000): Frame => ({ error: { code: 'unavailable', reason, retry_ms: ms } });

/** answerOf reads what came back; what is not the edge's is judged by its status. */
function answerOf(status: number, text: string): Frame {
  let frame: Frame = {};
  try {
    frame = JSON.parse(text) as Frame;
  } catch {
    // A proxy answered.
  }
  // For a token that has expired the stream ends, too, and comes back with another one.
  if (frame.error && passing.has(frame.error.code)) return later(frame.error.reason, Math.max(1000, frame.error.retry_ms));
  if (frame.published || frame.error) return frame;
  const reason = `HTTP status ${status}`;
  if (status >= 500 || status === 429 || status === 408) return later(reason);
  return { error: { code: 'refused', reason, retry_ms: 0 } };
}
