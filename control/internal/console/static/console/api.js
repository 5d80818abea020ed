// Control's API as the pages call it. The key lives in this tab only.

const place = 'nabat-api-key';

/** Refused is an answer that is a refusal: a code of the table and words. */
export class Refused extends Error {
  constructor(status, code, reason) {
    super(reason);
    this.status = status;
    this.code = code;
  }
}

/** words says what an error means to a person. */
export function words(error) {
  if (!(error instanceof Refused)) return error.message || String(error);
  const text = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  return `${text}${/[.!?]$/.test(text) ? '' : '.'} (${error.code})`;
}

export const key = {
  get: () => sessionStorage.getItem(place) ?? '',
  set: (secret) => sessionStorage.setItem(place, secret),
  clear: () => sessionStorage.removeItem(place),
};

/** doors tells of "locked": the API wants a key, or another one. */
export const doors = new EventTarget();

function request(method, path, body, signal) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (method === 'POST') headers['Content-Type'] = 'application/json';
  return { method, headers, signal, cache: 'no-store', credentials: 'omit', body: method === 'POST' ? JSON.stringify(body ?? {}) : undefined };
}

async function send(method, path, body, signal) {
  const shown = key.get();
  let answer;
  try {
    answer = await fetch(path, request(method, path, body, signal));
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('Control does not answer: it may be down, or the network between you and it.');
  }
  if (answer.ok) return answer;
  let refusal;
  try {
    refusal = (await answer.json()).error;
  } catch (error) {
    if (error.name === 'AbortError') throw error;
  }
  const problem = new Refused(answer.status, refusal?.code ?? 'unknown', refusal?.reason ?? `Control answered ${answer.status} and does not say why.`);
  if (answer.status === 401 && shown === key.get()) { // else somebody has just given another one
    doors.dispatchEvent(new CustomEvent('locked', { detail: { problem, shown } }));
  }
  throw problem;
}

async function json(method, path, body, signal) {
  return (await send(method, path, body, signal)).json();
}

export const get = (path, signal) => json('GET', path, undefined, signal);
export const post = (path, body, signal) => json('POST', path, body, signal);
export const remove = (path, signal) => json('DELETE', path, undefined, signal);

/** address makes a path: its ${parts} are encoded. */
export const address = (strings, ...parts) => String.raw({ raw: strings }, ...parts.map(encodeURIComponent));

/** query is a path with parameters, those without a value left out. */
export function query(path, parameters) {
  const text = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== '' && value != null)).toString();
  return text ? `${path}?${text}` : path;
}

/** events reads an event stream and yields {name, data} until it ends. */
export async function* events(path, signal) {
  const answer = await send('GET', path, undefined, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      const event = { name: '', data: '' };
      for (const line of part.split('\n')) {
        if (line.startsWith('event: ')) event.name = line.slice(7);
        if (line.startsWith('data: ')) event.data += line.slice(6);
      }
      if (event.data) yield { name: event.name, data: JSON.parse(event.data) };
    }
  }
}
