import type { PostfixInstance } from "../postfix/instance.ts";
import type { SnapshotInstance } from "../snapshot/snapshot.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Pair } from "./opened-snapshot.ts";

export interface MatchedInstance {
  readonly source: SnapshotInstance;
  readonly target: PostfixInstance | undefined;
}

/**
 * Which instance here would take over which of the snapshot: the one of its name, else of its configuration directory, else
 * the only one where there is one on either side.
 *
 * @param named the instance of the snapshot that is meant; undefined: all
 */
export function pairInstances(
  sources: readonly SnapshotInstance[],
  here: readonly PostfixInstance[],
  named: string | undefined,
): MatchedInstance[] {
  const meant = sources.filter(({ name }) => named === undefined || name === named);
  const alone = meant.length === 1 && here.length === 1 ? here[0] : undefined;
  return meant.map((source) => ({
    source,
    target:
      here.find(({ name }) => name === source.name) ??
      here.find(({ configDirectory }) => configDirectory === source.configDirectory) ??
      alone,
  }));
}

export function examinePairs(pairs: readonly MatchedInstance[]): readonly Finding[] {
  const name = "instances";
  if (pairs.length === 0) {
    return [bad(name, "the newest snapshot has no such instance", "name another with --instance, or none")];
  }
  return pairs.map(({ source, target }) =>
    target === undefined
      ? bad(
          name,
          `there is no instance here to take over ${source.name} (${source.configDirectory})`,
          `make one of that name (postmulti -e create -I ${source.name}), or name its directory in postfix.config_directories`,
        )
      : good(name, `${source.name} would be taken over by ${target.name} (${target.configDirectory})`),
  );
}

/** Findings about each pair, with the instance's name in front where there are several. */
export function perInstance<One extends Pick<Pair, "source">>(
  pairs: readonly One[],
  examine: (pair: One) => readonly Finding[],
): Finding[] {
  return pairs.flatMap((pair) =>
    examine(pair).map((finding) =>
      pairs.length === 1 ? finding : { ...finding, message: `${pair.source.name}: ${finding.message}` },
    ),
  );
}
