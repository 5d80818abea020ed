/** newId is unique enough for a message_id, also on pages without TLS. */
export function newId(): string {
  return base64(crypto.getRandomValues(new Uint8Array(15)));
}

/** bodyOf is the one field that carries data. */
export function bodyOf(data: unknown, as: 'data' | 'text'): { data: unknown } | { text: string } | { base64: string } {
  if (data instanceof Uint8Array) return { base64: base64(data) };
  if (as === 'text') {
    if (typeof data !== 'string') throw new TypeError('only a string can be published as text');
    return { text: data };
  }
  if (JSON.stringify(data) === undefined) throw new TypeError('only what has a form in JSON can be published as data');
  return { data };
}

/** base64 of RFC 4648 §4, with padding. */
function base64(bytes: Uint8Array): string {
  let s = '';
  for (const b of bytes) s += String.fromCharCode(b);
  return btoa(s);
}
