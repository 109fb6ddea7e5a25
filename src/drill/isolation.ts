import type { PostfixInstance } from "../postfix/instance.ts";
import type { DrillCheck } from "../snapshot/drill.ts";
import { run } from "../system/exec.ts";
import { processesIn } from "../system/processes.ts";
import { type DrillPostfix, masterLines } from "./instance.ts";
import type { DrillNetwork } from "./network.ts";

/** What proves, before any mail is there, that none can leave: the settings in force, the services, the network. */
export async function proveBefore(
  postfix: readonly DrillPostfix[],
  network: DrillNetwork,
  signal: AbortSignal | undefined,
): Promise<DrillCheck[]> {
  const settings: string[] = [];
  const services: string[] = [];
  for (const one of postfix) {
    settings.push(...(await deviatingSettings(one, signal)));
    services.push(...(await deviatingServices(one, signal)));
  }
  const count = Object.keys(postfix[0]?.parameters ?? {}).length;
  return [
    proof(
      "settings",
      settings,
      `${count} parameters in force are the drill's own; its only transport leads to its sink`,
    ),
    proof("services", services, "no service of master.cf listens on a network or hands mail to anything but the sink"),
    networkProof(network),
  ];
}

/** What proves at the end that none has left. */
export function proveAfter(network: DrillNetwork): DrillCheck[] {
  const look = network.look();
  if (look === null) return [];
  const { attempts } = look;
  const detail = attempts === 0 ? "none was tried" : `${attempts} were tried, and found no way`;
  return [{ name: "connections outside loopback", ok: attempts === 0, detail }];
}

/** Whether every process of an instance that runs is where nothing leads out. */
export function proveProcesses({ directory }: DrillPostfix, network: DrillNetwork): DrillCheck[] {
  if (network.kind === "shared") return [];
  const pids = processesIn(directory);
  const outside = pids.filter((pid) => network.holds(pid) === false);
  const detail =
    outside.length === 0
      ? `all ${pids.length} processes of Postfix are in the drill's network`
      : `${outside.length} of ${pids.length} processes of Postfix are in another network`;
  return [{ name: "processes", ok: outside.length === 0 && pids.length > 0, detail }];
}

function proof(name: string, deviations: readonly string[], good: string): DrillCheck {
  return { name, ok: deviations.length === 0, detail: deviations.length === 0 ? good : deviations.join("; ") };
}

/** As Postfix itself reads them: `postconf -x` of what `main.cf` was meant to say. */
async function deviatingSettings(postfix: DrillPostfix, signal: AbortSignal | undefined): Promise<string[]> {
  const names = Object.keys(postfix.parameters);
  const said = await ask(["-c", postfix.configDirectory, "-x", ...names], signal);
  const values = new Map(said.map((line) => [line.split(" =", 1)[0] ?? "", line.slice(line.indexOf(" =") + 2).trim()]));
  return names.flatMap((name) => {
    const expected = postfix.parameters[name]?.trim() ?? "";
    return values.get(name) === expected ? [] : [`${name} is not as the drill set it`];
  });
}

/** `postconf -M` must list the drill's own services, each as it was written, and none more. */
async function deviatingServices(postfix: DrillPostfix, signal: AbortSignal | undefined): Promise<string[]> {
  const said = (await ask(["-c", postfix.configDirectory, "-M"], signal)).map(words);
  const meant = masterLines(postfix.transport).map(words);
  return [
    ...said.filter((line) => !meant.includes(line)).map((line) => `there is a service ${line.split(" ", 2).join("/")}`),
    ...meant
      .filter((line) => !said.includes(line))
      .map((line) => `there is no service ${line.split(" ", 2).join("/")}`),
  ];
}

function words(line: string): string {
  return line.trim().split(/\s+/).join(" ");
}

async function ask(args: readonly string[], signal: AbortSignal | undefined): Promise<string[]> {
  const { stdout } = await run("postconf", args, signal === undefined ? {} : { signal });
  return stdout
    .toString("utf8")
    .split("\n")
    .filter((line) => line !== "");
}

/**
 * Where a module for tunnels is loaded, the kernel puts its fallback device into every new network namespace, down and without a
 * route (Linux admin-guide/sysctl/net.rst, fb_tunnels_only_for_init_net).
 */
const fallbackTunnels = [
  ...["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0"],
  ...["sit0", "ip6tnl0", "ip6gre0", "ip6_vti0"],
];

function networkProof(network: DrillNetwork): DrillCheck {
  const look = network.look();
  if (look === null) {
    const why = `this host lets no network of its own be made (${network.reason}): settings and services alone keep mail in`;
    return { name: "network", ok: true, detail: why };
  }
  const { interfaces, routes, listening } = look;
  const others = interfaces.filter((name) => name !== "lo");
  const idle = others.length > 0 && others.every((name) => fallbackTunnels.includes(name));
  const alone = interfaces.includes("lo") && (others.length === 0 || idle) && routes === 0 && listening === 0;
  const devices = `a loopback device, ${idle ? `tunnels of the kernel that are down (${others.join(", ")}), ` : ""}no other`;
  const detail = alone
    ? `a network of its own, with ${devices}, no route and no listener`
    : `devices ${interfaces.join(", ")}, ${routes} routes, ${listening} listeners`;
  return { name: "network", ok: alone, detail };
}

/** Of an instance: what `postfix check` says of it, which also makes its queue directories. */
export async function checkPostfix(
  { configDirectory }: PostfixInstance,
  network: DrillNetwork,
  signal: AbortSignal | undefined,
): Promise<DrillCheck> {
  const { code, stderr } = await network.run("postfix", ["-c", configDirectory, "check"], {
    okCodes: Array.from({ length: 256 }, (_, each) => each),
    timeoutMs: 10 * 60_000,
    ...(signal === undefined ? {} : { signal }),
  });
  const lines = stderr.split("\n").filter((line) => line !== "");
  const ok = code === 0 && lines.length === 0;
  return {
    name: "postfix check",
    ok,
    detail: ok ? "it has nothing to say" : `exit ${code}: ${lines.slice(0, 3).join("; ")}`,
  };
}
