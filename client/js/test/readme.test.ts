// The snippets of the README, as a reader would run them.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import path from 'node:path';
import { answer } from './backend.js';
import { Nabat, within } from './nabat.js';

const nabat = new Nabat();
let end = (): void => undefined;

before(async () => {
  await nabat.start();
  end = await answer(nabat.nats, 'rpc.orders.create', (body) => `{"order":${(JSON.parse(body) as { item: number }).item}}`);
});
after(async () => {
  end();
  await nabat.stop();
});

/** run runs a module with the built packages, and returns what it printed. */
function run(name: string, source: string): Promise<string> {
  const entries: Record<string, string> = { 'nabat-client': 'nabat-client', 'nabat-client/proto': 'nabat-client-proto' };
  const file = path.resolve(`dist/test/${name}.mjs`);
  const text = source
    .replace(/from '(nabat-client[^']*)'/g, (_, entry: string) => `from '../${entries[entry]}.js'`)
    .replaceAll('https://edge.example.com', nabat.edge)
    // The example's loop has no end: its reader's program runs for ever.
    .replace(/^(for await \(const message of chat\)) (.*);$/m, '$1 { $2; break; }')
    // A backend speaks when the loop listens; the message may come before the answer, and ends it all.
    .replace(/^for await \(const message of chat\)/m, 'setTimeout(() => chat.publish({ text: "again" }).catch(() => undefined), 200);\n$&');
  writeFileSync(file, `globalThis.reload = () => undefined;\nglobalThis.fetch = async () => ({ text: async () => '' });\n${text}\nclient.close();\n`);
  const child = spawn(process.execPath, ['--experimental-websocket', '--no-warnings', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (chunk) => (output += String(chunk)));
  child.stderr.on('data', (chunk) => (output += String(chunk)));
  const ended = new Promise<string>((resolve, reject) => {
    child.once('exit', (code) => (code === 0 ? resolve(output) : reject(new Error(`it ended with ${code}:\n${output}`))));
  });
  return within(name, ended).finally(() => {
    child.kill('SIGKILL');
    rmSync(file, { force: true });
  });
}

const printed: Record<string, RegExp> = {
  'What it is': /connecting[\s\S]*live[\s\S]*room: 'chat.42'[\s\S]*text: 'hi'[\s\S]*undefined \{ text: 'again' \}/,
  Calls: /\{ order: 12 \}\nno_responders undefined/,
  'Who is in a room': /0 1[\s\S]*true 0 \[\]/,
  'Protobuf and bytes': /Uint8Array\(3\) \[ 1, 2, 255 \]/,
  'Keep a position': /second/,
};

const sections = readFileSync('README.md', 'utf8').replace(/^# .*/, '## What it is').split(/^## /m);
for (const section of sections) {
  const name = section.slice(0, section.indexOf('\n'));
  for (const [, source] of section.matchAll(/^```js\n([\s\S]*?)^```$/gm)) {
    test(`README: ${name}`, async () => {
      assert.ok(printed[name], 'what it prints is known');
      assert.match(await run(name.replaceAll(' ', '-'), source!), printed[name]);
      delete printed[name];
    });
  }
}

test('README: every snippet was run', () => assert.deepEqual(Object.keys(printed), []));
