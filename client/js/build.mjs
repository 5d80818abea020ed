// Checks the types and builds dist/: the bundle, its types, and the tests.
// Control serves a copy of the bundle to its pages: with --install it is
// written, without it must be the same.
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const bundle = here('dist/nabat-client.js');
const served = here('../../control/internal/console/static/nabat-client.js');
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

if (process.argv.includes('--install')) {
  copyFileSync(bundle, served);
} else if (!readFileSync(bundle).equals(readFileSync(served))) {
  console.error('control/internal/console/static/nabat-client.js is not what src/ builds: npm run build');
  process.exit(1);
}
