import { OperatorError } from "../../errors.ts";
import { chooseSnapshot } from "../choose.ts";
import type { Context } from "../context.ts";
import { type Chosen, configuredCopies, copyToEach, namedCopy, requireApart } from "../copies.ts";
import { type Leave, recorded } from "../job.ts";

export interface CopyOptions {
  readonly to?: string | undefined;
  readonly all?: true | undefined;
}

/** `spoolsafe copy [SNAP|--all] [--to URL]`. Exit 3 when something untrusted was left out, 13 for damage; both are listed. */
export async function run(context: Context, spec: string | undefined, options: CopyOptions): Promise<number> {
  if (spec !== undefined && options.all === true) {
    throw new OperatorError("usage", "--all and the name of a snapshot don't go together", {
      hints: ["leave one of them out"],
    });
  }
  const targets = options.to === undefined ? configuredCopies(context) : [await namedCopy(context, options.to)];
  if (targets.length === 0) {
    throw new OperatorError("usage", "there is nowhere to copy to", {
      hints: ["name a place with --to URL", `or with a [[copy]] table in ${context.configFile}`],
    });
  }
  await requireApart(context, targets);
  const everything = spec === undefined && context.globals.host === undefined;
  const work = async (leave: Leave) => {
    const exit = await copyToEach(context, targets, everything ? null : await choose(context, spec), leave);
    context.render.summary({ targets: targets.length });
    return exit;
  };
  return everything && options.to === undefined ? await recorded(context, "copy", work) : await work(() => {});
}

async function choose(context: Context, spec: string | undefined): Promise<Chosen> {
  const { globals, signal } = context;
  const repository = await context.openRepository();
  if (spec !== undefined) return new Set([(await chooseSnapshot(context, repository, spec)).id]);
  const refs = await repository.snapshotRefs(signal);
  const { taken } = await repository.takeReadable(refs, ({ id, snapshot }) => ({ id, host: snapshot.host }), signal);
  return new Set(taken.filter(({ host }) => host === globals.host).map(({ id }) => id));
}
