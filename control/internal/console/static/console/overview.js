// Overview: the whole cluster at a glance, its edges and its control replicas.
import { Table, h, section, select } from '/console/dom.js';
import { words } from '/console/api.js';
import { figures, sum } from '/console/figures.js';
import { bytes, count, rate, span, when } from '/console/format.js';
import { maxLines, plots } from '/console/plots.js';

export const good = (n) => n.state === 'ready';
export const nodeLink = (n) => h('a', { href: `#/nodes/${encodeURIComponent(n.node)}` }, n.node);

/** nodeColumns are the figures of an edge; more stand behind them. */
export const nodeColumns = (...more) => [
  { name: 'Node', make: nodeLink },
  { name: 'State', text: (n) => n.state || 'starting', mark: (n) => (good(n) ? 'good' : 'warn') },
  { name: 'Connections', number: true, text: (n) => count(n.connections) },
  { name: 'Rooms', number: true, text: (n) => count(n.rooms) },
  { name: 'Messages in/s', number: true, text: (n) => rate(n.messages_in_rate) },
  { name: 'Deliveries/s', number: true, text: (n) => rate(n.deliveries_rate) },
  { name: 'Bytes/s', number: true, text: (n) => bytes(n.bytes_out_rate) },
  { name: 'Dropped', number: true, text: (n) => count(n.dropped), mark: (n) => (grows(n, 'dropped') ? 'warn' : '') },
  { name: 'Refused', number: true, text: (n) => count(n.refused) },
  { name: 'CPU', number: true, text: (n) => `${(n.cpu * 100).toFixed(0)} %` },
  { name: 'Memory', number: true, text: (n) => bytes(n.memory_bytes) },
  { name: 'Latency', number: true, text: (n) => span(n.latency_seconds), mark: (n) => (n.latency_seconds > 0.5 ? 'warn' : '') },
  { name: 'Loop lag', number: true, text: (n) => span(n.loop_lag_seconds), mark: (n) => (n.loop_lag_seconds > 0.25 ? 'warn' : '') },
  { name: 'Heard', number: true, text: (n) => `${n.heard_seconds.toFixed(1)} s ago`, mark: (n) => (n.heard_seconds > 6 ? 'warn' : '') },
  ...more,
];

/** grows reports whether a counter of a node has grown in the last minutes. */
function grows(n, name) {
  const first = figures.samples.find((s) => s.nodes.get(n.node)?.epoch === n.epoch)?.nodes.get(n.node);
  return first !== undefined && n[name] > first[name];
}

/** troubles says in words what is not as it should be. */
function troubles({ list, control }) {
  const out = [];
  for (const n of list) {
    if (n.state === 'silent') out.push(`${n.node} is silent: it last reported ${span(n.heard_seconds)} ago.`);
    else if (!good(n)) out.push(`${n.node} is ${n.state || 'starting'}.`);
    if (!n.whole) out.push(`Something that ${n.node} reported is missing: control is asking for it.`);
  }
  const losing = list.filter((n) => grows(n, 'dropped')).map((n) => n.node);
  if (losing.length > 0) out.push(`Messages were dropped in the last minutes at ${losing.slice(0, 5).join(', ')}${losing.length > 5 ? ` and ${losing.length - 5} more` : ''}.`);
  for (const c of control) if (c.state !== 'ready') out.push(`Control ${c.id} is ${c.state}.`);
  if (list.length === 0) out.push('No edge reports: nobody can connect.');
  return out;
}

function tiles(sample) {
  const all = (value) => sum(sample.list.map(value));
  return [
    ['Edges ready', `${sample.list.filter(good).length} of ${sample.list.length}`], ['Connections', count(all((n) => n.connections))],
    ['Messages in/s', rate(all((n) => n.messages_in_rate))], ['Deliveries/s', rate(all((n) => n.deliveries_rate))],
    ['Bytes/s', bytes(all((n) => n.bytes_out_rate))], ['Dropped', count(all((n) => n.dropped))], ['Refused', count(all((n) => n.refused))],
    ['CPU, cores', all((n) => n.cpu).toFixed(2)], ['Memory', bytes(all((n) => n.memory_bytes))],
  ];
}

export function overviewPage({ query, keep, signal }) {
  const board = h('dl', { class: 'tiles' });
  const problems = h('ul', { class: 'troubles', role: 'status' });
  const edges = new Table('Edges', nodeColumns(), { key: (n) => n.node, empty: 'No edge reports.' });
  const controls = new Table('Control replicas', [
    { name: 'Replica', text: (c) => c.id }, { name: 'State', text: (c) => c.state, mark: (c) => (c.state === 'ready' ? 'good' : 'warn') },
    { name: 'Version', text: (c) => c.version ?? '–' }, { name: 'Listens on', text: (c) => c.listen ?? '–' },
    { name: 'Since', text: (c) => when(c.started) }, { name: '', text: (c) => (c.self ? 'answers this page' : '') },
  ], { key: (c) => c.id, empty: 'No replica has a lease.' });
  const live = plots(query.get('by') === 'node' ? 'node' : 'cluster', signal);
  const by = select([['cluster', 'the whole cluster'], ['node', `each node (at most ${maxLines})`]], live.by, { 'aria-label': 'Plots show', onchange: () => {
    live.by = by.value;
    keep('overview', { by: by.value === 'node' ? 'node' : '' });
    live.draw();
  } });
  const update = () => {
    const sample = figures.newest;
    const list = [];
    if (figures.error) list.push(words(figures.error));
    if (sample) {
      list.push(...troubles(sample));
      const shown = tiles(sample);
      if (board.children.length !== shown.length) board.replaceChildren(...shown.map(([name]) => h('div', {}, h('dt', {}, name), h('dd', {}))));
      shown.forEach(([, value], i) => { board.children[i].lastChild.textContent = value; });
      edges.update(sample.list);
      controls.update(sample.control);
    }
    if (list.join('\n') !== [...problems.children].map((p) => p.textContent).join('\n')) problems.replaceChildren(...list.map((text) => h('li', {}, text)));
  };
  figures.addEventListener('change', update, { signal });
  update();
  return [h('div', { class: 'title' }, h('h1', {}, 'Overview'), h('span', { class: 'choice' }, 'Plots show ', by)), problems, board, live.element,
    section('Edges', edges.element), section('Control replicas', controls.element)];
}
