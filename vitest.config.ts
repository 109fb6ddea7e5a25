import { join } from "node:path";
import { defineConfig } from "vitest/config";

// Test files start hundreds of Nodes that load the sources: compiled once, a third of their CPU time is saved.
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, ".vitest/compiled");

/**
 * Two projects: `fast` needs nothing but Node and is done in seconds; `real` talks to real Postfix instances, a real S3
 * server, and kills real processes. Files named `*.real.test.ts` are the second kind.
 */
export default defineConfig({
  test: {
    // Tests of real Postfix wait more than they work: three files at a time on two cores.
    maxWorkers: 3,
    projects: [
      {
        test: { name: "fast", include: ["test/**/*.test.ts"], exclude: ["test/**/*.real.test.ts"], testTimeout: 30_000 },
      },
      {
        test: {
          name: "real",
          include: ["test/**/*.real.test.ts"],
          globalSetup: ["test/support/leftovers.ts", "test/support/real-servers.ts"],
          testTimeout: 180_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
