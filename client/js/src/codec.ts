import type { Frame, Message } from './protocol.js';

/** The body of what is sent: one JSON value as text, a text, or bytes. */
export type Body = { json: string } | { text: string } | { binary: Uint8Array };

/** A command as it is before it is written. fields are those of its verb but the body. */
export interface Command {
  id?: number;
  verb: string;
  fields: object;
  body?: Body | undefined;
}

/** Codec writes commands and reads what the edge sends, under one sub-protocol. */
export interface Codec {
  readonly subprotocol: string;
  encode(command: Command): string | Uint8Array<ArrayBuffer>;
  /** decode throws where the frame is not of the sub-protocol. */
  decode(frame: string | ArrayBuffer): Frame;
}

/** json is the sub-protocol that says everything in text. */
export const json: Codec = {
  subprotocol: 'nabat.v1.json',

  encode({ id, verb, fields, body }) {
    let inner = JSON.stringify(fields);
    if (body) {
      const text = 'json' in body ? `"data":${body.json}` : JSON.stringify('text' in body ? body : { base64: base64(body.binary) }).slice(1, -1);
      inner = `${inner.slice(0, -1)}${inner === '{}' ? '' : ','}${text}}`;
    }
    return `{${id === undefined ? '' : `"id":${id},`}"${verb}":${inner}}`;
  },

  decode(frame) {
    if (typeof frame !== 'string') throw new TypeError('a frame that is not text');
    const object = JSON.parse(frame) as Frame;
    for (const m of [object, object.result, ...(object.history?.messages ?? [])] as ((Message & { base64?: string }) | undefined)[]) {
      if (m?.base64 === undefined) continue;
      m.binary = Uint8Array.from(atob(m.base64), (c) => c.charCodeAt(0));
      delete m.base64;
    }
    return object;
  },
};

/** base64 of RFC 4648 §4, with padding. */
export function base64(bytes: Uint8Array): string {
  let s = '';
  for (const b of bytes) s += String.fromCharCode(b);
  return btoa(s);
}
