/**
 * Build dist/: `node scripts/build.mjs [--main FILE] [--outdir DIR]`.
 *
 * Four entries in one directory, because the code finds its neighbours by name: spoolsafe.js is the command and plain
 * enough for any Node to parse, app.js the program, pack-worker.js and status-look.js the code of its threads. What these
 * share, and what is loaded late, is in chunks beside them.
 */
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: {
    main: { type: "string", default: join(root, "src/main.ts") },
    outdir: { type: "string", default: join(root, "dist") },
  },
});
const outdir = resolve(values.outdir);
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

const common = {
  absWorkingDir: root,
  outdir,
  platform: "node",
  format: "esm",
  sourcemap: false,
  logLevel: "warning",
  define: { __SPOOLSAFE_VERSION__: JSON.stringify(version) },
};

// Chunks of an earlier build are named differently and would stay for ever.
for (const name of existsSync(outdir) ? readdirSync(outdir) : []) {
  if (/^chunk-[A-Z0-9]+\.js$/.test(name)) rmSync(join(outdir, name));
}
await build({
  ...common,
  entryPoints: {
    app: resolve(values.main),
    "pack-worker": join(root, "src/pack/pack-worker.ts"),
    "status-look": join(root, "src/cli/status-look.ts"),
  },
  bundle: true,
  splitting: true,
  chunkNames: "chunk-[hash]",
  target: "node24",
  // The ECMAScript form of a package where it has one: import() of a CommonJS form in a chunk gives no named exports.
  mainFields: ["module", "main"],
  // Packages in CommonJS form call require for Node's own modules.
  banner: {
    js: 'import { createRequire as createRequireOfBundle } from "node:module"; const require = createRequireOfBundle(import.meta.url);',
  },
});
await build({
  ...common,
  entryPoints: { spoolsafe: join(root, "src/launcher.ts") },
  bundle: false,
  target: "node16",
  banner: { js: "#!/usr/bin/env node" },
});
chmodSync(join(outdir, "spoolsafe.js"), 0o755);
for (const name of ["spoolsafe.js", "app.js", "pack-worker.js", "status-look.js"]) {
  if (!existsSync(join(outdir, name))) throw new Error(`the build made no ${name}`);
}
