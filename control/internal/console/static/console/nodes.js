// Nodes: take one out of service, even out all of them, and look at one alone.
import { address, get, post, remove } from '/console/api.js';
import { Say, Table, act, button, every, facts, field, form, h, section, sure } from '/console/dom.js';
import { figures } from '/console/figures.js';
import { bytes, count, many, rate, span, when } from '/console/format.js';
import { good, nodeColumns } from '/console/overview.js';
import { plots } from '/console/plots.js';

/** drain asks first, then takes a node out of service. */
async function drain(name, pressed, say) {
  const over = h('input', { placeholder: 'the node’s own setting', autocomplete: 'off' });
  const n = figures.newest?.nodes.get(name);
  const answer = await sure({
    title: `Drain ${name}?`, action: 'Drain it', fields: { over: ['Over', over, 'A time such as 30s or 5m, over which its clients move'] },
    text: `It accepts nobody any more and hands its ${n ? many(n.connections, 'client') : 'clients'} over to other edges. It stays out of service until its process is started anew.`,
  });
  if (!answer) return;
  await act(pressed, say, async () => {
    const reply = await post(address`/v1/nodes/${name}/drain`, answer.over ? { over: answer.over } : {});
    if (reply.error) throw new Error(`${name} does not: ${reply.error.reason} (${reply.error.code})`);
    say.good(`${name} drains: ${many(reply.affected, 'connection')} will move.`);
    figures.ask();
  });
}

const drainButton = (name, say) => {
  const element = button('Drain…', () => drain(name, element, say));
  element.setAttribute('aria-label', `Drain ${name}…`);
  return element;
};

function rebalance(signal) {
  const say = new Say();
  const pace = h('input', { type: 'number', min: 0, max: 100000, placeholder: '1 % of all' });
  const tolerance = h('input', { type: 'number', min: 0, max: 100, placeholder: '5' });
  const bar = h('progress', { max: 1, value: 0, 'aria-label': 'Connections that have moved' });
  const state = h('p', { role: 'status' }, '…');
  const show = (p) => {
    const all = p.moved + p.left;
    bar.hidden = p.state !== 'running';
    bar.max = all || 1;
    bar.value = all ? p.moved : 1;
    state.textContent = !p.started ? 'None has run yet.' : `The newest one is ${{ running: 'running', done: 'done', stopped: 'stopped', failed: 'broken off' }[p.state] ?? p.state}: ` +
      `${many(p.moved, 'connection')} moved, ${count(p.left)} above the share of their nodes.${p.reason ? ` ${p.reason}.` : ''} It began ${when(Date.parse(p.started))}.`;
    start.disabled = p.state === 'running';
    stop.disabled = p.state !== 'running';
  };
  const start = h('button', { class: 'button' }, 'Start');
  const stop = button('Stop', () => act(stop, say, async () => {
    const p = await remove('/v1/rebalance');
    say.good('It stops.');
    setTimeout(() => show(p));
  }));
  const element = section('Rebalance', h('p', { class: 'soft' }, 'Moves clients from full edges to others, some in each second, until all have about as many.'),
    form({ class: 'row' }, (pressed) => act(pressed, say, async () => {
      const p = await post('/v1/rebalance', { rate: Number(pace.value) || 0, tolerance: Number(tolerance.value) || 0 });
      say.good('It has begun.');
      setTimeout(() => show(p));
    }), field('Connections a second', pace), field('Tolerance, %', tolerance), h('div', { class: 'buttons' }, start, stop)), say.element, state, bar);
  every(2000, signal, async () => {
    try {
      show(await get('/v1/rebalance', signal));
    } catch (error) {
      if (error.name !== 'AbortError') state.textContent = '';
      say.bad(error);
    }
  });
  return element;
}

export function nodesPage({ signal }) {
  const say = new Say();
  const table = new Table('Nodes', nodeColumns({ name: '', make: (n) => drainButton(n.node, say) }), { key: (n) => n.node, empty: 'No edge reports.' });
  const update = () => {
    if (figures.newest) table.update(figures.newest.list);
  };
  figures.addEventListener('change', update, { signal });
  update();
  return [h('h1', {}, 'Nodes'), section('Edges', say.element, table.element), rebalance(signal)];
}

export function nodePage({ name, signal }) {
  const say = new Say();
  const state = h('div');
  const live = plots(name, signal);
  const update = () => {
    const n = figures.newest?.nodes.get(name);
    if (!n) {
      if (figures.newest) state.replaceChildren(h('p', { class: 'empty' }, `No node named ${name} reports.`));
      return;
    }
    state.replaceChildren(facts([
      ['State', h('b', { 'data-mark': good(n) ? 'good' : 'warn' }, n.state || 'starting')], ['Version', n.version ?? '–'], ['Listens on', n.listen ?? '–'], ['Runs since', when(n.started)],
      ['Connections', count(n.connections)], ['Users', count(n.users)], ['Rooms', count(n.rooms)], ['Messages in/s', rate(n.messages_in_rate)],
      ['Deliveries/s', rate(n.deliveries_rate)], ['Bytes/s', bytes(n.bytes_out_rate)], ['Published by clients', count(n.published)], ['Deliveries in all', count(n.deliveries)],
      ['Bytes in all', bytes(n.bytes_out)], ['Dropped', count(n.dropped)], ['Refused', count(n.refused)], ['CPU', `${(n.cpu * 100).toFixed(0)} %`],
      ['Memory', bytes(n.memory_bytes)], ['Latency', span(n.latency_seconds)], ['Loop lag', span(n.loop_lag_seconds)], ['Heard', `${n.heard_seconds.toFixed(1)} s ago`], ['Picture', n.whole ? 'whole' : 'something is missing'],
    ]));
  };
  figures.addEventListener('change', update, { signal });
  update();
  return [h('div', { class: 'title' }, h('h1', {}, name), drainButton(name, say)), say.element, h('div', { class: 'card' }, state), live.element,
    h('p', {}, h('a', { href: '#/nodes' }, 'All nodes'))];
}
