import { base64, type Body } from './codec.js';

/** newId is unique enough for a message_id, also on pages without TLS. */
export function newId(): string {
  return base64(crypto.getRandomValues(new Uint8Array(15)));
}

/** bodyOf is what is sent of data, as it is at this moment. */
export function bodyOf(data: unknown, as: 'data' | 'text'): Body {
  if (data instanceof Uint8Array) return { binary: data.slice() };
  if (as === 'text') {
    if (typeof data !== 'string') throw new TypeError('only a string can be sent as text');
    return { text: data };
  }
  const json = JSON.stringify(data) as string | undefined;
  if (json === undefined) throw new TypeError('only what has a form in JSON can be sent as data');
  return { json };
}
