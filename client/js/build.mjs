// Checks the types and builds dist/: the bundle, its types, the tests, and what
// control's page of a shared document needs of yjs. Control serves copies of the
// bundles to its pages: with --install they are written, without they must be the same.
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const bundle = here('dist/nabat-client.js');
const yjs = here('dist/yjs.js');
const served = (file) => here(`../../control/internal/console/static/${basename(file)}`);
const tsc = (project) => execFileSync(process.execPath, [here('node_modules/typescript/bin/tsc'), '-p', here(project)], { stdio: 'inherit' });

rmSync(here('dist'), { recursive: true, force: true });
tsc('tsconfig.json');
tsc('tsconfig.types.json');
const common = { bundle: true, format: 'esm', target: 'es2022', charset: 'utf8', logLevel: 'warning', absWorkingDir: here('.') };
await build({
  ...common,
  entryPoints: ['src/index.ts'],
  outfile: bundle,
  minify: true,
  banner: { js: '// nabat-client, built from client/js by npm run build. Apache-2.0.' },
});
const tests = readdirSync(here('test')).filter((name) => name.endsWith('.test.ts'));
await build({ ...common, entryPoints: tests.map((name) => `test/${name}`), outdir: 'dist/test', platform: 'node', target: 'node20', sourcemap: 'inline' });

// yjs stands alone for the pages, with the licences that have to go with it.
const licences = ['yjs', 'lib0', 'isomorphic.js'].map((name) => `${name}:\n${readFileSync(here(`node_modules/${name}/LICENSE`), 'utf8').trim()}`);
await build({
  ...common,
  stdin: { contents: "export { Doc, applyUpdate, encodeStateAsUpdate, mergeUpdates } from 'yjs';", resolveDir: here('.') },
  outfile: yjs,
  minify: true,
  legalComments: 'none',
  banner: { js: `/* A part of yjs, bundled by npm run build in client/js.\n\n${licences.join('\n\n')}\n*/` },
});

for (const file of [bundle, yjs]) {
  if (process.argv.includes('--install')) {
    copyFileSync(file, served(file));
  } else if (!readFileSync(file).equals(readFileSync(served(file)))) {
    console.error(`${basename(file)} of control/internal/console/static is not what npm run build makes: run it`);
    process.exit(1);
  }
}
