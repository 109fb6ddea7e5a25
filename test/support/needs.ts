import { spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** What a machine may lack. Only a missing privilege or package may skip a test, and the skip says its name. */
export type Need =
  | "root"
  | "postfix"
  | "age"
  | "zstd"
  | "tar"
  | "openssl"
  | "flock"
  | "script"
  | "ceph"
  | "swift"
  | "systemd"
  | "chromium"
  | "zsh"
  | "fish"
  | "promtool"
  | "munin-run"
  | "visudo"
  | "mmdebstrap"
  | "shellcheck"
  | "mount"
  | "mount-namespace"
  | "pid-namespace";

/**
 * Whether this machine has all of it. What is missing is printed once by name, with the package that brings it, so that
 * a reader of the test's output knows why `describe.skipIf(!needs(...))` skipped.
 */
export function needs(...wanted: readonly Need[]): boolean {
  const missing = wanted.filter((need) => !has(need));
  for (const need of missing) tellOnce(need);
  return missing.length === 0;
}

interface Check {
  readonly present: () => boolean;
  readonly remedy: string;
}

const checks: Record<Need, Check> = {
  root: { present: isRoot, remedy: "run the tests as root: Postfix needs it" },
  postfix: {
    present: () => programs("postfix", "postsuper", "postqueue", "postcat"),
    remedy: "apt-get install postfix",
  },
  age: { present: () => programs("age", "age-keygen"), remedy: "apt-get install age" },
  zstd: { present: () => programs("zstd"), remedy: "apt-get install zstd" },
  tar: { present: () => programs("tar"), remedy: "apt-get install tar" },
  openssl: { present: () => programs("openssl"), remedy: "apt-get install openssl" },
  flock: { present: () => programs("flock"), remedy: "apt-get install util-linux" },
  script: { present: () => programs("script", "stty"), remedy: "apt-get install bsdutils" },
  ceph: {
    present: () => programs("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin"),
    remedy: "apt-get install --no-install-recommends ceph-mon ceph-osd radosgw",
  },
  swift: {
    present: () =>
      programs("swift-proxy-server", "swift-account-server", "swift-container-server", "swift-object-server"),
    remedy: "apt-get install --no-install-recommends swift-proxy swift-account swift-container swift-object",
  },
  systemd: {
    present: () => programs("systemd-analyze", "systemd-notify"),
    remedy: "apt-get install --no-install-recommends systemd",
  },
  chromium: { present: () => programs("chromium") || programs("chromium-browser"), remedy: "apt-get install chromium" },
  zsh: { present: () => programs("zsh"), remedy: "apt-get install zsh" },
  fish: { present: () => programs("fish"), remedy: "apt-get install fish" },
  promtool: { present: () => programs("promtool"), remedy: "apt-get install --no-install-recommends prometheus" },
  "munin-run": { present: () => programs("munin-run"), remedy: "apt-get install --no-install-recommends munin-node" },
  shellcheck: { present: () => programs("shellcheck"), remedy: "apt-get install shellcheck" },
  mmdebstrap: { present: () => programs("mmdebstrap"), remedy: "apt-get install mmdebstrap" },
  visudo: { present: () => programs("visudo"), remedy: "apt-get install sudo" },
  mount: {
    present: () => isRoot() && mayUnshare("--mount"),
    remedy: "run the tests as root, where mounting is allowed",
  },
  "mount-namespace": {
    present: () => isRoot() && mayUnshare("--mount"),
    remedy: "run the tests as root, where unshare --mount is allowed",
  },
  "pid-namespace": {
    present: () => isRoot() && mayUnshare("--pid", "--fork"),
    remedy: "run the tests as root, where unshare --pid is allowed",
  },
};

const known = new Map<Need, boolean>();

function has(need: Need): boolean {
  const before = known.get(need);
  if (before !== undefined) return before;
  const found = checks[need].present();
  known.set(need, found);
  return found;
}

const told = new Set<Need>();

function tellOnce(need: Need): void {
  if (told.has(need)) return;
  told.add(need);
  process.stderr.write(`skipped for want of ${need}: ${checks[need].remedy}\n`);
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** Whether programs of these names are in PATH or in the directories for administrators. */
function programs(...names: readonly string[]): boolean {
  const directories = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin", "/usr/bin"];
  return names.every((name) => directories.some((directory) => executable(join(directory, name))));
}

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function mayUnshare(...options: readonly string[]): boolean {
  return spawnSync("unshare", [...options, "true"], { stdio: "ignore" }).status === 0;
}
