// A backend over plain NATS: what answers calls in the tests.
import net from 'node:net';

/**
 * answer subscribes to a subject and replies to each request. A reply that begins
 * with ! is an error with that code. It resolves when NATS knows the subscription.
 */
export function answer(url: string, subject: string, reply: (body: string) => string): Promise<() => void> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), hostname);
    socket.on('error', reject);
    socket.write(`CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\nSUB ${subject} 1\r\nPING\r\n`);
    let rest = '';
    socket.on('data', (chunk) => {
      rest += chunk.toString('latin1');
      for (;;) {
        const end = rest.indexOf('\r\n');
        if (end < 0) return;
        const [verb, ...args] = rest.slice(0, end).split(' ');
        const length = verb === 'MSG' || verb === 'HMSG' ? Number(args.at(-1)) + 2 : 0;
        if (rest.length < end + 2 + length) return;
        const payload = rest.slice(end + 2, end + length);
        rest = rest.slice(end + 2 + length);
        if (verb === 'PING') socket.write('PONG\r\n');
        if (verb === 'PONG') resolve(() => socket.destroy());
        if (length === 0) continue;
        const body = reply(verb === 'HMSG' ? payload.slice(Number(args.at(-2))) : payload);
        const head = body.startsWith('!') ? `NATS/1.0\r\nNabat-Error: ${body.slice(1)}\r\n\r\n` : 'NATS/1.0\r\n\r\n';
        const text = body.startsWith('!') ? 'it failed' : body;
        socket.write(`HPUB ${args[2]} ${head.length} ${head.length + text.length}\r\n${head}${text}\r\n`, 'latin1');
      }
    });
  });
}

/** request asks for one reply. */
export function request(url: string, subject: string, body: string): Promise<string> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), hostname);
    const inbox = `_INBOX.${process.pid}.${Math.random().toString(36).slice(2)}`;
    let text = '';
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`no reply in ${text}`)));
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      const head = /H?MSG [^\r]* (\d+)\r\n/.exec(text);
      const end = head ? head.index + head[0].length + Number(head[1]) : Infinity;
      if (text.length < end) return;
      resolve(text.slice(head!.index + head![0].length, end).replace(/^NATS\/1\.0[\s\S]*?\r\n\r\n/, ''));
      socket.destroy();
    });
    socket.write(`CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nSUB ${inbox} 1\r\nPUB ${subject} ${inbox} ${Buffer.byteLength(body)}\r\n${body}\r\n`);
  });
}
