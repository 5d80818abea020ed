// Live plots of the nodes' figures, drawn by uPlot.
import uPlot from '/uplot.js';
import { h } from '/console/dom.js';
import { figures, most, sum } from '/console/figures.js';
import { bytes, count, rate, span } from '/console/format.js';

const wholes = [1, 2, 5].flatMap((n) => Array.from({ length: 12 }, (_, i) => n * 10 ** i)).sort((a, b) => a - b);
const powers = Array.from({ length: 45 }, (_, i) => 2 ** i);

/** kinds are the plots there are: of a node the value, of the cluster all folded. */
const kinds = [
  { title: 'Connections', value: (n) => n.connections, fold: sum, format: count, steps: wholes },
  { title: 'Deliveries a second', value: (n) => n.deliveries_rate, fold: sum, format: rate },
  { title: 'Bytes a second', value: (n) => n.bytes_out_rate, fold: sum, format: bytes, steps: powers },
  { title: 'Latency to the write, at most', value: (n) => n.latency_seconds, fold: most, format: span },
  { title: 'Loop lag, at most', value: (n) => n.loop_lag_seconds, fold: most, format: span },
];

const maxLines = 8; // more can not be told apart
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Plot {
  constructor(kind) {
    this.kind = kind;
    this.value = h('span', { class: 'now' });
    this.canvas = h('div', { class: 'canvas', role: 'img' });
    this.legend = h('ul', { class: 'legend' });
    this.element = h('figure', { class: 'card plot' }, h('figcaption', {}, h('span', {}, kind.title), this.value), this.canvas, this.legend);
    this.lines = [];
  }

  /** update draws samples; by is "cluster", "node", or the name of one node. */
  update(samples, by) {
    const lines = this.#lines(samples, by);
    this.data = [samples.map((s) => s.at), ...lines.map((line) => samples.map(line.at))];
    if (!this.chart || lines.map((l) => l.name).join('\n') !== this.lines.map((l) => l.name).join('\n')) {
      this.lines = lines;
      this.#make();
    } else {
      this.lines = lines;
      this.chart.setData(this.data);
    }
    this.#tell(this.data[0].length - 1);
  }

  #lines(samples, by) {
    const { value, fold, title } = this.kind;
    if (by === 'cluster') return [{ name: title, at: (s) => fold(s.list.map(value)) }];
    const names = by === 'node' ? samples.at(-1).list.map((n) => n.node) : [by];
    return names.slice(0, maxLines).map((name) => ({ name, at: (s) => (s.nodes.has(name) ? value(s.nodes.get(name)) : null) }));
  }

  #make() {
    this.chart?.destroy();
    const axis = { stroke: () => colour('--soft'), grid: { stroke: () => colour('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui, sans-serif' };
    this.chart = new uPlot({
      width: this.canvas.clientWidth || 300, height: 150, legend: { show: false }, padding: [8, 22, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: true, range: (_, from, to) => [Math.min(from, to - 60), to] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
      axes: [{ ...axis, size: 26, space: 70, values: (_, list) => list.map((t) => new Date(t * 1000).toLocaleTimeString([], { hour12: false })) },
        { ...axis, size: 66, space: 36, ...(this.kind.steps && { incrs: this.kind.steps }), values: (_, list) => list.map((v) => this.kind.format(v)) }],
      series: [{}, ...this.lines.map((line, i) => ({
        label: line.name, width: 2, points: { show: false }, stroke: () => colour(`--line-${i + 1}`),
        fill: this.lines.length === 1 ? () => `color-mix(in srgb, ${colour('--line-1')} 14%, transparent)` : undefined,
      }))],
      hooks: { setCursor: [(chart) => this.#tell(chart.cursor.idx ?? this.data[0].length - 1)] },
    }, this.data, this.canvas);
    this.legend.hidden = this.lines.length < 2;
    this.legend.replaceChildren(...this.lines.map((line, i) => {
      const item = h('li', { 'data-line': i + 1 }, line.name, ' ', h('b', {}));
      return item;
    }));
  }

  /** tell shows the values of one sample: the newest, or the one under the pointer. */
  #tell(i) {
    const { format, fold } = this.kind;
    const values = this.data.slice(1).map((list) => list[i]);
    this.value.textContent = values.length === 0 ? '–' : format(fold(values.map((v) => v ?? 0)));
    [...this.legend.children].forEach((item, n) => { item.lastChild.textContent = values[n] == null ? '–' : format(values[n]); });
    const all = this.data.slice(1).flat().filter((v) => v != null);
    this.canvas.setAttribute('aria-label', `${this.kind.title}: ${this.value.textContent} now, ${format(Math.min(...all))} to ${format(Math.max(...all))} in the last ${span(Math.round(this.data[0].at(-1) - this.data[0][0]))}`);
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (this.chart && width > 0 && width !== this.chart.width) this.chart.setSize({ width, height: 150 });
  }

  destroy() { this.chart?.destroy(); }
}

/** plots draws all of them live until the signal; by may be changed on the way. */
export function plots(by, signal) {
  const list = kinds.map((kind) => new Plot(kind));
  const element = h('div', { class: 'plots' }, list.map((p) => p.element));
  const all = { element, by, draw() {
    if (figures.samples.length > 0 && element.isConnected) for (const p of list) p.update(figures.samples, all.by);
  } };
  const watch = new ResizeObserver(() => list.forEach((p) => p.resize()));
  watch.observe(element);
  figures.addEventListener('change', all.draw, { signal });
  const scheme = matchMedia('(prefers-color-scheme: dark)');
  scheme.addEventListener('change', () => list.forEach((p) => p.chart?.redraw(false)), { signal });
  signal.addEventListener('abort', () => {
    watch.disconnect();
    list.forEach((p) => p.destroy());
  });
  queueMicrotask(all.draw);
  return all;
}

export { maxLines };
