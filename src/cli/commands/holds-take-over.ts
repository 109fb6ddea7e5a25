import { OperatorError } from "../../errors.ts";
import { foreignClaims } from "../../holds/fence.ts";
import { decideAgainst, type FencingClaims } from "../../holds/fence-claims.ts";
import { fencedMail } from "../../holds/released.ts";
import { listAside } from "../../holds/set-aside.ts";
import { type GiveBackReport, giveBack } from "../../holds/take-over.ts";
import { listClaims } from "../../repository/claims.ts";
import { withdrawClaim } from "../../repository/take-claim.ts";
import type { Claimed } from "../../snapshot/claim.ts";
import type { Context } from "../context.ts";
import { confirm } from "../prompt.ts";
import { localTime, table } from "../table.ts";
import { gatherClaims, ownClaims, requireRoot, tellStrangers } from "./holds-fence.ts";

export interface TakeOverOptions {
  readonly release?: true | undefined;
  /** Name of the host whose claim still stands. */
  readonly anyway?: string | undefined;
  readonly withdraw?: true | undefined;
}

/** Lists by default. Exit 3 when something that was to be released is still on hold. */
export async function run(context: Context, claim: string | undefined, options: TakeOverOptions): Promise<number> {
  if (options.withdraw === true) return await withdraw(context, claim);
  requireRoot();
  const found = await gatherClaims(context);
  const views = await viewsOf(context, found);
  if (options.release === true) return await release(context, choose(views, claim), found, options.anyway);
  if (options.anyway !== undefined) {
    throw new OperatorError("usage", "--anyway goes with --release", {
      hints: ["without flags the claims are listed"],
    });
  }
  tellStrangers(context, found);
  list(context, views, found);
  return 0;
}

/** A claim as this host sees it, with what it fenced here. */
interface ClaimView {
  readonly id: string;
  /** Null when nothing but its id is known any more. */
  readonly claim: Claimed | null;
  /** `unknown`: the repository could not be read. */
  readonly state: "stands" | "withdrawn" | "decided-against" | "unknown";
  readonly fenced: readonly FencedHere[];
}

interface FencedHere {
  readonly instance: string;
  readonly queueId: string;
  /** RFC 3339. */
  readonly since: string;
  readonly place: "hold" | "aside";
}

async function viewsOf(context: Context, found: FencingClaims): Promise<ClaimView[]> {
  const { stateDirectory } = context;
  const fenced = new Map<string, FencedHere[]>();
  const own = await ownClaims(context);
  const foreign = new Set<string>();
  for (const instance of await context.instances()) {
    for (const { id } of foreignClaims(found.claims, own, instance)) foreign.add(id);
    for (const { claim, id, since } of fencedMail(stateDirectory, instance)) {
      add(fenced, claim, { instance: instance.name, queueId: id, since, place: "hold" });
    }
    for (const { claim, queueId, since } of listAside(stateDirectory, instance)) {
      add(fenced, claim, { instance: instance.name, queueId, since, place: "aside" });
    }
  }
  const stands = found.failure === null ? "stands" : "unknown";
  const known = new Map<string, Pick<ClaimView, "claim" | "state">>([
    ...found.withdrawn.map(({ id, claim }) => [id, { claim, state: "withdrawn" }] as const),
    ...found.decidedAgainst.map(({ id, claim }) => [id, { claim, state: "decided-against" }] as const),
    ...found.claims.map(({ id, claim }) => [id, { claim, state: stands }] as const),
  ]);
  const shown = [...known.keys()].filter((id) => fenced.has(id) || foreign.has(id));
  return [...new Set([...shown, ...fenced.keys()])].map((id) => ({
    id,
    ...(known.get(id) ?? { claim: null, state: "unknown" as const }),
    fenced: fenced.get(id) ?? [],
  }));
}

function add(fenced: Map<string, FencedHere[]>, claim: string, message: FencedHere): void {
  const list = fenced.get(claim);
  if (list === undefined) fenced.set(claim, [message]);
  else list.push(message);
}

function list({ render }: Context, views: readonly ClaimView[], { failure }: FencingClaims): void {
  for (const { id, claim, state, fenced } of views) {
    const facts = claim && { host: claim.host, by: claim.by, into: claim.into, shard: claim.shard, time: claim.time };
    const more = claim && { snapshot: claim.snapshot, run: claim.run, messages: claim.digests.messages };
    const counts = { onHold: inPlace(fenced, "hold"), setAside: inPlace(fenced, "aside") };
    render.line({ type: "claim", id, state, ...facts, ...more, ...counts } as never);
    for (const message of fenced) render.line({ type: "fenced", claim: id, ...message } as never);
  }
  const all = views.flatMap(({ fenced }) => fenced);
  render.summary({ count: views.length, onHold: inPlace(all, "hold"), setAside: inPlace(all, "aside") });
  const rows = views.map(({ id, claim, state, fenced }) => [
    id.slice(0, 8),
    claim?.by ?? "?",
    claim === null ? "?" : localTime(new Date(claim.time)),
    claim?.shard ? `${claim.shard.k}/${claim.shard.n}` : "",
    state,
    claim?.digests.messages ?? 0,
    inPlace(fenced, "hold"),
    inPlace(fenced, "aside"),
  ]);
  const head = ["claim", "by", "time", "share", "state", "claimed", "on hold here", "moved aside here"];
  render.text(rows.length === 0 ? "" : table(head, rows));
  if (failure !== null) render.warn(`whether a claim has been withdrawn is unknown: ${failure.message}`);
  if (rows.length === 0) render.note("No other host claims mail of this one.");
  else {
    render.note("To leave it to that host, do nothing: it stays on hold, and nothing of it is deleted.");
    render.note(
      "To take it back, let that host withdraw its claim (spoolsafe undo RUN there), then add --release here.",
    );
  }
}

function inPlace(fenced: readonly FencedHere[], place: FencedHere["place"]): number {
  return fenced.filter((message) => message.place === place).length;
}

function choose(views: readonly ClaimView[], spec: string | undefined): ClaimView {
  const candidates = views.filter(({ id, fenced }) => (spec === undefined ? fenced.length > 0 : id.startsWith(spec)));
  const [only, ...others] = candidates;
  if (only !== undefined && others.length === 0) return only;
  const hints = views.map(({ id, claim }) => `${id.slice(0, 16)}, by ${claim?.by ?? "an unknown host"}`);
  const which =
    spec === undefined ? "which claim?" : `${spec} is ${only === undefined ? "no claim" : "several claims"} here`;
  throw new OperatorError("usage", views.length === 0 ? "no claim has put mail of this host on hold" : which, {
    hints,
  });
}

async function release(
  context: Context,
  view: ClaimView,
  found: FencingClaims,
  anyway: string | undefined,
): Promise<number> {
  const { render, stateDirectory, clock, signal, globals } = context;
  if (view.state !== "withdrawn" && view.state !== "decided-against") requireDecision(view, anyway);
  const question = `release ${view.fenced.length} messages that ${view.claim?.by ?? "another host"} had taken over?`;
  if (!(await confirm(question, globals.yes === true, signal))) return 1;
  if (view.state !== "withdrawn") decideAgainst(stateDirectory, view.id, new Date(clock.now()).toISOString());
  const own = await ownClaims(context);
  const reports: GiveBackReport[] = [];
  for (const instance of await context.instances()) {
    const others = foreignClaims(found.claims, own, instance).filter(({ id }) => id !== view.id);
    reports.push(await giveBack({ instance, stateDirectory, claim: view.id, others, clock }));
  }
  for (const report of reports) render.line({ type: "given-back", claim: view.id, ...report } as never);
  const released = reports.reduce((sum, report) => sum + report.released.length, 0);
  const kept = reports.flatMap((report) => report.kept);
  const stillHeld = reports.flatMap((report) => report.stillHeld);
  render.summary({ claim: view.id, released, kept: kept.length, stillHeld: stillHeld.length });
  render.text(`released ${released} messages that claim ${view.id.slice(0, 8)} had put on hold`);
  for (const { queueId, claim } of kept) {
    render.warn(`${queueId} stays on hold: claim ${claim.slice(0, 8)} has taken it as well`);
  }
  if (stillHeld.length > 0) render.warn(`postsuper did not release ${stillHeld.join(" ")}`);
  return stillHeld.length > 0 ? 3 : 0;
}

/** @throws OperatorError `refused` unless the operator names the host that may be delivering the same mail */
function requireDecision({ id, claim, state }: ClaimView, anyway: string | undefined): void {
  if (claim !== null && anyway === claim.by) return;
  const by = claim?.by ?? "another host";
  const why =
    state === "stands" ? `stands: ${by} may be delivering this mail` : "may stand: the repository can't be read";
  throw new OperatorError("refused", `claim ${id.slice(0, 8)} ${why}`, {
    hints: [
      `on ${by}: spoolsafe undo ${claim?.run ?? "RUN"}, which withdraws the claim`,
      ...(claim === null
        ? []
        : [`or, once it is certain that ${by} delivers none of it (it was wiped): --release --anyway ${by}`]),
    ],
  });
}

/** For a claim that a restore of this host made and nobody acts on: its run died before it placed anything. */
async function withdraw(context: Context, spec: string | undefined): Promise<number> {
  const { render, clock, signal, globals } = context;
  const [repository, key, trusted] = [
    await context.openRepository(),
    await context.signingKey(),
    await context.trustedKeys(),
  ];
  const { standing } = await listClaims(repository, trusted, signal);
  const own = standing.filter(({ claim }) => claim.writer === key.writer);
  const [only, ...others] = own.filter(({ id }) => spec !== undefined && id.startsWith(spec));
  if (only === undefined || others.length > 0) {
    const hints = own.map(
      ({ id, claim }) => `${id.slice(0, 16)}: mail of ${claim.host} at ${claim.time}, run ${claim.run}`,
    );
    throw new OperatorError("usage", "which claim of this host?", { hints });
  }
  const { host, run: restore } = only.claim;
  render.warn(`from then on ${host} delivers that mail itself: nothing of run ${restore} may be left here to deliver`);
  if (!(await confirm(`withdraw the claim on mail of ${host}?`, globals.yes === true, signal))) return 1;
  await withdrawClaim({ repository, key, trusted, clock, signal }, only.id, "withdrawn by an operator");
  render.summary({ claim: only.id, withdrawn: true });
  render.text(`withdrew claim ${only.id.slice(0, 8)}`);
  return 0;
}
