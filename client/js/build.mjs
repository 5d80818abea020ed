// Checks the types and builds dist/: the bundles, their types, the tests, and what
// control's pages need of others: yjs for the shared document, uPlot for the console.
// Control serves copies of the bundles: with --install they are written, without they
// must be the same.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const bundles = { 'nabat-client': 'index', 'nabat-client-proto': 'proto', 'nabat-client-shared': 'shared', 'nabat-client-worker': 'worker' };
const tsc = (project) => execFileSync(process.execPath, [here('node_modules/typescript/bin/tsc'), '-p', here(project)], { stdio: 'inherit' });

rmSync(here('dist'), { recursive: true, force: true });
tsc('tsconfig.json');
tsc('tsconfig.types.json');
const common = { bundle: true, format: 'esm', target: 'es2022', charset: 'utf8', logLevel: 'warning', absWorkingDir: here('.') };
for (const [name, source] of Object.entries(bundles)) {
  await build({
    ...common,
    format: name === 'nabat-client-worker' ? 'iife' : 'esm', // a classic worker runs in more browsers
    entryPoints: [`src/${source}.ts`],
    outfile: here(`dist/${name}.js`),
    minify: true,
    banner: { js: `// ${name}, built from client/js by npm run build. Apache-2.0.` },
  });
}
const tests = readdirSync(here('test')).filter((name) => name.endsWith('.test.ts'));
await build({ ...common, entryPoints: tests.map((name) => `test/${name}`), outdir: 'dist/test', platform: 'node', target: 'node20', sourcemap: 'inline' });

// What is others' stands alone for the pages, with the licences that have to go with it.
async function bundleOf(what, packages, outfile, contents, loader = 'js') {
  const licences = packages.map((name) => `${name}:\n${readFileSync(here(`node_modules/${name}/LICENSE`), 'utf8').trim()}`);
  await build({
    ...common,
    stdin: { contents, resolveDir: here('.'), loader },
    outfile: here(`dist/${outfile}`),
    minify: true,
    legalComments: 'none',
    banner: { [loader]: `/* ${what}, bundled by npm run build in client/js.\n\n${licences.join('\n\n')}\n*/` },
  });
}
await bundleOf('A part of yjs', ['yjs', 'lib0', 'isomorphic.js'], 'yjs.js', "export { Doc, applyUpdate, encodeStateAsUpdate, mergeUpdates } from 'yjs';");
await bundleOf('uPlot', ['uplot'], 'uplot.js', "export { default } from 'uplot';");
await bundleOf('uPlot', ['uplot'], 'uplot.css', "@import 'uplot/dist/uPlot.min.css';", 'css');

let stale = false;
for (const name of [...Object.keys(bundles).map((bundle) => `${bundle}.js`), 'yjs.js', 'uplot.js', 'uplot.css']) {
  const bundle = here(`dist/${name}`);
  const served = here(`../../control/internal/console/static/${name}`);
  if (process.argv.includes('--install')) {
    copyFileSync(bundle, served);
  } else if (!existsSync(served) || !readFileSync(bundle).equals(readFileSync(served))) {
    console.error(`control/internal/console/static/${name} is not what src/ builds: npm run build`);
    stale = true;
  }
}
if (stale) process.exit(1);
