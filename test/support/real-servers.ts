import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { freePorts, type ServerKind, watchServers } from "./object-server.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** Where `sharedServer` starts its servers, once one is asked for. */
    objectServers: { readonly directory: string; readonly ports: Readonly<Record<ServerKind, number>> };
  }
}

/** Vitest's global set-up of the real tests: starts nothing, but ends whatever its test files start together. */
export default async function setUp(project: TestProject): Promise<() => Promise<void>> {
  const directory = mkdtempSync(join(tmpdir(), "spoolsafe-s3-"));
  const first = await freePorts(10);
  const stop = watchServers(directory);
  project.provide("objectServers", { directory, ports: { ceph: first, swift: first + 4 } });
  return stop;
}
