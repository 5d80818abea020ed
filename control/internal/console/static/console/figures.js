// What the nodes report, asked every two seconds as they report it, and kept for
// some minutes.
import { get } from '/console/api.js';

const interval = 2000;
const kept = 150; // five minutes

/** sums are how a figure of the nodes becomes one of the cluster. */
export const sum = (list) => list.reduce((a, b) => a + b, 0);
export const most = (list) => list.reduce((a, b) => Math.max(a, b), 0);

class Figures extends EventTarget {
  samples = []; // {at (unix seconds), nodes: Map by name, list, control}
  error = null;
  #timer = 0;
  #running = false;

  get newest() { return this.samples.at(-1); }

  start() {
    if (this.#running) return;
    this.#running = true;
    this.#turn();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
  }

  async #turn() {
    clearTimeout(this.#timer);
    if (!document.hidden || !this.newest) await this.ask();
    if (this.#running) this.#timer = setTimeout(() => this.#turn(), interval);
  }

  async ask() {
    try {
      const cluster = await get('/v1/nodes', AbortSignal.timeout(10_000));
      const list = cluster.nodes.sort((a, b) => (a.node < b.node ? -1 : 1));
      this.samples.push({ at: Date.now() / 1000, list, nodes: new Map(list.map((n) => [n.node, n])), control: cluster.control });
      if (this.samples.length > kept) this.samples.shift();
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.dispatchEvent(new Event('change'));
  }
}

export const figures = new Figures();
