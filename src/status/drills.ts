import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { errnoOf } from "../errors.ts";

const targetSchema = z.object({ seconds: z.number(), met: z.boolean() }).nullable();

/** The part of a drill's record (src/snapshot/drill.ts) that a status page shows. */
const drillSchema = z.object({
  type: z.literal("drill"),
  id: z.string(),
  host: z.string(),
  scenario: z.object({ name: z.string() }).nullable(),
  started: z.string(),
  ok: z.boolean(),
  rpoSeconds: z.number().nullable(),
  rtoSeconds: z.number().nullable(),
  targets: z.object({ rpo: targetSchema, rto: targetSchema }),
  messages: z.object({ manifest: z.number(), identical: z.number() }),
  deviations: z.array(z.string()),
});

export type DrillResult = Readonly<z.infer<typeof drillSchema>>;

/**
 * The last drills that were done on this host, newest first, from `<state>/drills/<id>/report.json`. A record that can't be read
 * is left out: its signature is for `drill verify` to check, this only shows.
 */
export function readDrills(stateDirectory: string, most: number): readonly DrillResult[] {
  const directory = join(stateDirectory, "drills");
  return namesIn(directory)
    .flatMap((name) => readDrill(join(directory, name, "report.json")) ?? [])
    .sort((a, b) => (a.started < b.started ? 1 : -1))
    .slice(0, most);
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}

/** The first of the record's two lines; the second is its signature. */
function readDrill(file: string): DrillResult | undefined {
  try {
    const [line = ""] = readFileSync(file, "utf8").split("\n", 1);
    return drillSchema.safeParse(JSON.parse(line)).data;
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ENOENT" || code === "ENOTDIR" || error instanceof SyntaxError) return undefined;
    throw error;
  }
}
