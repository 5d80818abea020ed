// Figures and times for people.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

/** count is a whole number, with commas. */
export const count = (n) => whole.format(n ?? 0);

/** rate is a number of something in a second. */
export function rate(n) {
  if (!n) return '0';
  return n < 10 ? short.format(n) : whole.format(n);
}

/** bytes takes the unit that keeps it short. */
export function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  for (n = n ?? 0; n >= 1000 && i < units.length - 1; i++) n /= 1024;
  return `${n < 10 && i > 0 ? short.format(n) : whole.format(n)} ${units[i]}`;
}

/** span is a time span in seconds. */
export function span(s) {
  if (s < 0.001) return s > 0 ? `${whole.format(s * 1e6)} µs` : '0 s';
  if (s < 1) return `${short.format(s * 1000)} ms`;
  if (s < 60) return `${short.format(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** when is a moment in unix milliseconds, in the place's own time. */
export const when = (ms) => (ms ? new Date(ms).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium' }) : '–');

/** clock is the time of day with milliseconds. */
export function clock(ms) {
  const d = new Date(ms);
  const two = (n) => String(n).padStart(2, '0');
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, '0')}`;
}

/** many is a number with its word. */
export const many = (n, one, more = `${one}s`) => `${count(n)} ${n === 1 ? one : more}`;

/** obeyed says what the nodes did about connections. */
export function obeyed(done, reply) {
  const parts = [reply.affected === 0 ? 'Nobody was there: no connection was found.' : `${many(reply.affected, 'connection')} ${done}.`];
  for (const node of reply.nodes) if (node.error) parts.push(`${node.node} could not: ${node.error.reason} (${node.error.code}).`);
  if (reply.missing.length > 0) parts.push(`${reply.missing.join(', ')} did not answer: it may or may not have obeyed.`);
  return parts.join(' ');
}
