import { messageQueues } from "../postfix/queue.ts";
import { packKey } from "../repository/layout.ts";
import type { SignedSnapshot } from "../repository/repository.ts";
import type { Manifest, MessageEntry } from "../snapshot/manifest.ts";
import type { Damage } from "./damage.ts";

/** Where a manifest and the record that names it don't agree: packs in both directions, instances, and every count. */
export function manifestDamages(signed: SignedSnapshot, manifest: Manifest): Damage[] {
  return [...packDamages(signed, manifest), ...countDamages(signed, manifest)];
}

function packDamages({ id, snapshot }: SignedSnapshot, manifest: Manifest): Damage[] {
  const named = new Set(snapshot.packs.map((pack) => pack.id));
  const used = new Map<string, MessageEntry | null>();
  for (const message of manifest.messages) {
    for (const { pack } of [message.file, ...message.logs]) if (!used.has(pack)) used.set(pack, message);
  }
  for (const { file } of manifest.files) if (file !== null && !used.has(file.pack)) used.set(file.pack, null);
  const unnamed = [...used].filter(([pack]) => !named.has(pack));
  const unused = [...named].filter((pack) => !used.has(pack));
  return [
    ...unnamed.map(([pack, message]) => ({
      snapshot: id,
      object: packKey(pack),
      message: message?.queueId ?? null,
      problem: "the manifest needs this pack, the record does not name it",
    })),
    ...unused.map((pack) => ({
      snapshot: id,
      object: packKey(pack),
      message: null,
      problem: "the record names this pack, the manifest needs nothing of it",
    })),
  ];
}

function countDamages({ id, snapshot }: SignedSnapshot, { messages }: Manifest): Damage[] {
  const own = (problem: string): Damage => ({ snapshot: id, object: null, message: null, problem });
  const known = new Set(snapshot.instances.map(({ name }) => name));
  const strangers = new Set(messages.map(({ instance }) => instance).filter((name) => !known.has(name)));
  const bytes = messages.reduce(
    (sum, { file, logs }) => sum + file.bytes + logs.reduce((all, log) => all + log.bytes, 0),
    0,
  );
  const perInstance = snapshot.instances.flatMap((instance) =>
    countProblems(
      instance.messages,
      messages.filter((message) => message.instance === instance.name),
    ).map((problem) => own(`instance ${instance.name}: ${problem}`)),
  );
  return [
    ...[...strangers].map((name) => own(`the manifest has messages of instance ${name}, the record does not name it`)),
    ...countProblems(snapshot.messages, messages).map(own),
    ...perInstance,
    ...(bytes === snapshot.bytes
      ? []
      : [own(`the record counts ${snapshot.bytes} bytes of mail, the manifest has ${bytes}`)]),
  ];
}

function countProblems(counted: SignedSnapshot["snapshot"]["messages"], all: readonly MessageEntry[]): string[] {
  // What finished during the run is in the manifest, and in the count of no queue.
  const messages = all.filter(({ finished }) => !finished);
  const unknown = messages.some(({ inFlight }) => inFlight === null);
  const found = {
    total: messages.length,
    ...Object.fromEntries(messageQueues.map((queue) => [queue, messages.filter((one) => one.queue === queue).length])),
    inFlight: unknown ? null : messages.filter(({ inFlight }) => inFlight === true).length,
    finishedDuringRun: all.length - messages.length,
  } as Partial<Record<keyof typeof counted, number | null>>;
  const names = ["total", ...messageQueues, "inFlight", "finishedDuringRun"] as const;
  return names.flatMap((name) =>
    counted[name] === found[name]
      ? []
      : [`the record counts ${counted[name]} ${name}, the manifest has ${found[name]}`],
  );
}
