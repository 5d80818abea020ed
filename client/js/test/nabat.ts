// A real Nabat for the tests: the program, built from this repository, with
// NATS, control and edges on free ports, and a network that can be broken.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const patience = 45_000;

/** within rejects when a promise takes too long to settle. */
export function within<T>(what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in ${patience} ms: ${what}`)), patience);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** until polls a condition. */
export async function until(what: string, ok: () => boolean): Promise<void> {
  for (const end = Date.now() + patience; !ok(); await sleep(5)) {
    if (Date.now() > end) throw new Error(`not in ${patience} ms: ${what}`);
  }
}

/** Running is one process of the program. */
class Running {
  output = '';
  #ended: Promise<void>;

  constructor(readonly process: ChildProcess) {
    process.stdout?.on('data', (chunk) => (this.output += String(chunk)));
    process.stderr?.on('data', (chunk) => (this.output += String(chunk)));
    this.#ended = new Promise((resolve) => process.once('exit', () => resolve()));
  }

  async says(pattern: RegExp): Promise<string> {
    await until(`${pattern} in the output`, () => pattern.test(this.output) || this.process.exitCode !== null);
    const found = pattern.exec(this.output)?.[1];
    if (found === undefined) throw new Error(`no ${pattern} in:\n${this.output}`);
    return found;
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    this.process.kill(signal);
    await this.#ended;
  }
}

/** Nabat is nabat dev, and edges beside it that can be stopped and started. */
export class Nabat {
  readonly #folder = mkdtempSync(path.join(tmpdir(), 'nabat-client-'));
  readonly #program = path.join(this.#folder, 'nabat');
  readonly #running = new Set<Running>();
  /** The address of dev's own edge. */
  edge = '';
  nats = '';

  async start(): Promise<void> {
    // The tests run in client/js.
    execFileSync('go', ['build', '-o', this.#program, './deploy/nabat'], { cwd: path.resolve('../..'), stdio: 'inherit' });
    const anywhere = '127.0.0.1:0';
    const dev = this.#run('dev', '--edge-listen', anywhere, '--control-listen', anywhere, '--nats-listen', anywhere, '--ops-listen', anywhere);
    this.edge = await dev.says(/edge +(http:\S+)/);
    this.nats = await dev.says(/nats +(nats:\S+)/);
  }

  /** runEdge runs an edge of its own at an address; port 0 picks a free one. */
  async runEdge(listen = '127.0.0.1:0'): Promise<{ address: string; end(signal: NodeJS.Signals): Promise<void> }> {
    const edge = this.#run('edge', '--listen', listen, '--nats-url', this.nats, '--ops-listen', '', '--drain', '200ms');
    const address = await edge.says(/edge serves clients.* address=(\S+)/);
    await edge.says(/(policies in force)/);
    return {
      address,
      end: async (signal) => {
        await edge.end(signal);
        this.#running.delete(edge);
      },
    };
  }

  token(...args: string[]): string {
    return execFileSync(this.#program, ['token', '--nats-url', this.nats, ...args], { encoding: 'utf8' }).trim();
  }

  /** publish is what a backend does. */
  publish(room: string, body: string, ...args: string[]): void {
    execFileSync(this.#program, ['pub', room, body, '--nats-url', this.nats, ...args]);
  }

  async stop(): Promise<void> {
    for (const running of this.#running) await running.end('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #run(...args: string[]): Running {
    const running = new Running(spawn(this.#program, args, { stdio: ['ignore', 'pipe', 'pipe'] }));
    this.#running.add(running);
    return running;
  }
}

/** Network is a TCP proxy before an edge, whose faults a test chooses. */
export class Network {
  readonly #server: net.Server;
  readonly #target: URL;
  readonly #pairs = new Set<[net.Socket, net.Socket]>();
  /** Requests that begin so are cut off. */
  refuse = '';
  /** Told what clients send. */
  sent: (text: string) => void = () => undefined;
  connections = 0;

  constructor(target: string) {
    this.#target = new URL(target);
    this.#server = net.createServer((client) => this.#accept(client));
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  /** freeze lets nothing through any more on the connections that exist, and closes none. */
  freeze(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.pause().removeAllListeners('data');
  }

  /** mute lets nothing of the edge through on the connections that exist. */
  mute(): void {
    for (const [, edge] of this.#pairs) edge.removeAllListeners('data').resume();
  }

  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  close(): void {
    this.cut();
    this.#server.close();
  }

  #accept(client: net.Socket): void {
    this.connections++;
    const edge = net.connect(Number(this.#target.port), this.#target.hostname);
    const pair: [net.Socket, net.Socket] = [client, edge];
    this.#pairs.add(pair);
    let first = true;
    client.on('data', (chunk) => {
      if (first && this.refuse && chunk.toString('latin1').startsWith(this.refuse)) client.destroy();
      else edge.write(chunk);
      first = false;
      this.sent(unmasked(chunk as Buffer));
    });
    edge.on('data', (chunk) => client.write(chunk));
    for (const [one, other] of [pair, [edge, client] as const]) {
      one.on('error', () => undefined);
      one.on('close', () => {
        other.destroy();
        this.#pairs.delete(pair);
      });
    }
  }
}

/** unmasked is the text of a chunk that begins with a client's frame (RFC 6455 §5.2). */
function unmasked(chunk: Buffer): string {
  if (chunk[0] !== 0x81) return '';
  const at = (chunk[1]! & 0x7f) === 126 ? 4 : 2;
  const mask = chunk.subarray(at, at + 4);
  return Buffer.from(chunk.subarray(at + 4).map((b, i) => b ^ mask[i % 4]!)).toString('utf8');
}
