import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pack as tarPack } from "tar-stream";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createIdentity } from "../../src/crypto/keys.ts";
import { createSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import type { OperatorError } from "../../src/errors.ts";
import { packEntryName, sealPack } from "../../src/pack/pack.ts";
import { listClaims } from "../../src/repository/claims.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { S3Store } from "../../src/repository/s3.ts";
import { digestOf } from "../../src/system/digest.ts";
import { sharedCeph } from "../support/ceph.ts";
import { type CliOptions, spoolsafe } from "../support/cli.ts";
import { FaultyProxy, type SeenRequest } from "../support/faulty-proxy.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import type { ObjectServer } from "../support/object-server.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { newBucket, writeCredentials } from "../support/s3.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { all } from "../support/streams.ts";
import { filesOf, tree } from "../support/tree.ts";

/*
 * What bad input gets: an error that names the next step, the exit code of the interface page, and nothing changed, neither
 * in the queue nor in the repository nor where something was to be written.
 */

/** How a command is to end. */
interface Ending {
  readonly exit: number;
  readonly kind: string;
  readonly says: string | RegExp;
  /** In one of the hints, or in the message where the next step stands there (configuration files). */
  readonly next: string | RegExp;
}

const noIdentity = { exit: 12, kind: "no-identity" };
const config = { exit: 2, kind: "config" };
const damaged = { exit: 13, kind: "damaged" };
const noRepository = { exit: 10, kind: "no-repository" };
const storeFailed = { exit: 1, kind: "store-failed" };

/** A Postfix with mail that rests (some of it on hold), its site with one snapshot, and a Postfix to restore into. */
class Scene implements AsyncDisposable {
  readonly scratch = makeScratch();
  readonly sink: Sink;
  readonly site: Site;
  readonly source: PrivatePostfix;
  readonly target: PrivatePostfix;
  readonly config: string;
  readonly identity: string;
  readonly output: string;

  private constructor(sink: Sink, site: Site, source: PrivatePostfix, target: PrivatePostfix) {
    this.sink = sink;
    this.site = site;
    this.source = source;
    this.target = target;
    this.config = site.configure([source]);
    this.identity = join(site.directory, "identity.txt");
    this.output = join(this.scratch, "output");
  }

  static async make(): Promise<Scene> {
    const sink = await Sink.start({ domains: { "defer.test": { rcpt: "450 4.2.0 try later" } } });
    const resting = { minimal_backoff_time: "1h", maximal_backoff_time: "2h", queue_run_delay: "1h" };
    const source = await PrivatePostfix.start({ sink, main: resting });
    const target = await PrivatePostfix.start({});
    await target.stop();
    const letters = Array.from({ length: 6 }, () => plainLetter({ recipients: ["somebody@defer.test"] }));
    const [first] = await source.submit(letters);
    await source.settled();
    await source.hold([first?.queueId ?? ""]);
    const scene = new Scene(sink, await Site.make(), source, target);
    const { code, stderr } = await spoolsafe(["backup", "--config", scene.config]);
    if (code !== 0) throw new Error(`the first backup failed: ${stderr}`);
    return scene;
  }

  /** The configuration with some of its lines replaced, in a file of its own. */
  variant(...changes: readonly (readonly [RegExp, string])[]): string {
    const path = join(this.scratch, "variant.toml");
    const text = changes.reduce((so, [pattern, line]) => so.replace(pattern, line), readFileSync(this.config, "utf8"));
    writeFileSync(path, text);
    return path;
  }

  /** A copy of the repository to be damaged, and the configuration that names it. */
  copyOfRepository(): { directory: string; config: string } {
    const directory = join(this.scratch, "copy");
    rmSync(directory, { recursive: true, force: true });
    cpSync(join(this.site.directory, "repository"), directory, { recursive: true });
    return { directory, config: this.variant([/^url = .*$/m, `url = ${JSON.stringify(`file://${directory}`)}`]) };
  }

  get everything(): string[] {
    return [
      join(this.site.directory, "repository"),
      this.source.queueDirectory,
      this.target.queueDirectory,
      this.output,
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.source.destroy();
    this.target.destroy();
    await this.sink.close();
    await this.site[Symbol.asyncDispose]();
    destroyScratch(this.scratch);
  }
}

function endsAs(line: unknown, { exit, kind, says, next }: Ending): void {
  expect(line).toMatchObject({ type: "error", kind, exit });
  const { message, hints } = line as { message: string; hints: string[] };
  expect(message).toMatch(says);
  expect([message, ...hints].join("\n")).toMatch(next);
}

describe.skipIf(!needs("root", "postfix", "flock"))("bad input", () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await Scene.make();
  });
  afterAll(async () => scene?.[Symbol.asyncDispose]());

  /** Run a command that must end so, as its only JSON line, and must not have changed a thing. */
  async function refused(args: readonly string[], ending: Ending, options: CliOptions = {}): Promise<void> {
    const before = tree(...scene.everything);
    await ends(args, ending, options);
    expect(tree(...scene.everything)).toEqual(before);
  }

  /** The same where mail may be held and given back meanwhile: every file is what and where it was. */
  async function failed(args: readonly string[], ending: Ending, options: CliOptions = {}): Promise<void> {
    const before = filesOf(...scene.everything);
    await ends(args, ending, options);
    expect(filesOf(...scene.everything)).toEqual(before);
  }

  async function ends(args: readonly string[], ending: Ending, options: CliOptions): Promise<void> {
    const named = args.includes("--config") ? args : [...args, "--config", scene.config];
    const { code, json, stderr } = await spoolsafe([...named, "--json"], options);
    expect({ code, stderr }).toMatchObject({ code: ending.exit, stderr: expect.not.stringContaining("spoolsafe:") });
    endsAs(json.at(-1), ending);
  }

  /** Every command that opens what is sealed. */
  const readers = () => [
    ["ls", "latest"],
    ["verify", "latest", "--level", "deep"],
    ["restore", "latest", "--to", scene.output],
    ["restore", "latest", "--into", scene.target.configDirectory],
  ];

  test("for people it is the fact, then the next step, and nothing on standard output", async () => {
    const { code, stdout, stderr } = await spoolsafe([
      "restore",
      "latest",
      "--to",
      scene.output,
      "--config",
      scene.config,
    ]);
    expect({ code, stdout }).toEqual({ code: 12, stdout: "" });
    expect(stderr).toMatch(
      /^spoolsafe: this needs an age identity, and none is configured\n {2}name it with --identity-file FILE/,
    );
  });

  test("a wrong identity", async () => {
    const wrong = join(scene.scratch, "wrong.txt");
    writeFileSync(wrong, `${(await createIdentity(false)).identity}\n`, { mode: 0o600 });
    for (const args of readers()) {
      await refused([...args, "--identity-file", wrong], {
        ...noIdentity,
        says: /none of the|no identity/,
        next: /identity/,
      });
    }
  });

  test("a missing identity: none named, a file that is not there, a file without one", async () => {
    const empty = join(scene.scratch, "empty.txt");
    writeFileSync(empty, "# nothing\n", { mode: 0o600 });
    for (const args of readers()) {
      await refused(args, { ...noIdentity, says: "none is configured", next: "--identity-file FILE" });
    }
    const ls = (file: string) => ["ls", "latest", "--identity-file", file];
    await refused(ls("/nowhere/identity.txt"), {
      ...noIdentity,
      says: "can't be read: ENOENT",
      next: "check the path",
    });
    await refused(ls(empty), { ...noIdentity, says: "holds no age identity", next: "--identity-file" });
  });

  test("no repository in a directory: not there, or empty", async () => {
    const empty = join(scene.scratch, "empty");
    mkdirSync(empty);
    for (const directory of [empty, join(scene.scratch, "nowhere")]) {
      const before = tree(directory);
      for (const args of [
        ["backup"],
        ["snapshots"],
        ["restore", "latest", "--to", scene.output, "--identity-file", scene.identity],
      ]) {
        const ending = { ...noRepository, says: directory, next: /spoolsafe init makes/ };
        await refused([...args, "--repository", `file://${directory}`], ending);
      }
      expect(tree(directory)).toEqual(before);
    }
  });

  test("another repository's snapshot, its record copied in", async () => {
    await using other = await Site.make();
    const made = await spoolsafe(["backup", "--config", other.configure([scene.source])]);
    expect(made).toMatchObject({ code: 0 });
    const copy = scene.copyOfRepository();
    const foreign = join(other.directory, "repository");
    const [record = ""] = recordsOf(foreign);
    for (const kind of ["snapshots", "packs", "parts"])
      cpSync(join(foreign, kind), join(copy.directory, kind), { recursive: true });
    const before = tree(copy.directory);
    const id = record.slice(-64);

    const verified = await spoolsafe(["verify", "--all", "--level", "sealed", "--json", "--config", copy.config]);
    expect(verified.code).toBe(13);
    expect(verified.json.at(-1)).toMatchObject({
      type: "summary",
      damaged: [{ snapshot: id, problem: expect.stringMatching(/another repository/) }],
    });
    const ending = { ...damaged, says: "another repository", next: /not usable|other snapshots/ };
    for (const to of [
      ["--to", scene.output],
      ["--into", scene.target.configDirectory],
    ]) {
      await refused(["restore", id, ...to, "--identity-file", scene.identity, "--config", copy.config], ending);
    }
    expect(tree(copy.directory)).toEqual(before);
  });

  test("unknown keys and wrong types in the file: all at once, each with its line", async () => {
    const path = scene.variant(
      [/^host = .*$/m, 'hots = "mx1"'],
      [/^\[postfix\]$/m, '[postfix]\nhold_batch = "many"\nhold_limit = 2\nmode = "fast"'],
      [/^\[signing\]$/m, "[signign]"],
    );
    const lineOf = (text: string) =>
      readFileSync(path, "utf8")
        .split("\n")
        .findIndex((line) => line.startsWith(text)) + 1;
    const before = tree(...scene.everything);
    const { code, json } = await spoolsafe(["backup", "--json", "--config", path]);
    expect(code).toBe(2);
    const { message } = json.at(-1) as { message: string };
    expect(message).toMatch(/^5 problems in the configuration\n/);
    for (const [text, problem] of [
      ["hots", 'hots: unknown key; the nearest known one is "host"'],
      ["[signign]", 'signign: unknown key; the nearest known one is "signing"'],
      ["hold_batch", 'postfix.hold_batch: must be a number, not the string "many"'],
      ["hold_limit", "postfix.hold_limit: must be "],
      ["mode", 'postfix.mode: must be one of "hold", "freeze", "live"'],
    ] as const) {
      expect(message).toContain(`${path}:${lineOf(text)}: ${problem}`);
    }
    expect(tree(...scene.everything)).toEqual(before);
  });

  test("secrets that others can read: identity, signing key, credentials", async () => {
    const open = (name: string, text: string) => {
      const path = join(scene.scratch, name);
      writeFileSync(path, text, { mode: 0o644 });
      return path;
    };
    const identity = open("open-identity.txt", readFileSync(scene.identity, "utf8"));
    const key = open("open.key", createSigningKey().privatePem);
    const credentials = open("open.credentials", "[default]\naws_access_key_id = a\naws_secret_access_key = b\n");
    const ending = (path: string) => ({
      ...config,
      says: `${path} can be read by others (mode 0644)`,
      next: `chmod 600 ${path}`,
    });
    await refused(["ls", "latest", "--identity-file", identity], ending(identity));
    const withKey = scene.variant([/^key_file = .*$/m, `key_file = ${JSON.stringify(key)}`]);
    await refused(["backup", "--config", withKey], ending(key));
    const s3 = `url = "s3://bucket/x"\nendpoint = "http://127.0.0.1:9"\ncredentials_file = ${JSON.stringify(credentials)}`;
    await refused(["backup", "--config", scene.variant([/^url = .*$/m, s3])], ending(credentials));
  });

  test("no Postfix: without its programs, and without an instance in the directory named", {
    skip: !needs("mount-namespace"),
  }, async () => {
    // /sbin is the same directory on Debian; Postfix's commands are nowhere else.
    const under = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /usr/sbin && exec "$@"', "sh"];
    const identified = ["--identity-file", scene.identity];
    const into = ["restore", "latest", "--into", scene.target.configDirectory, ...identified];
    const missing = { ...config, says: "Postfix is not installed here", next: "install Postfix" };
    await refused(["backup"], missing, { under });
    await refused(into, missing, { under });
    const every = scene.variant([/^config_directories = .*\n/m, ""]);
    await refused(
      ["backup", "--config", every],
      { ...config, says: "Postfix is not installed here", next: "install Postfix" },
      { under },
    );
    const nowhere = scene.variant([/^config_directories = .*$/m, 'config_directories = ["/nowhere/etc"]']);
    const none = {
      ...config,
      says: "can't read the Postfix configuration in /nowhere/etc",
      next: "postconf -c /nowhere/etc -n",
    };
    await refused(["backup", "--config", nowhere], none);
    await refused([...into.slice(0, 3), "/nowhere/etc", ...identified], none);
    const { code, json } = await spoolsafe(["doctor", "--json", "--config", scene.config], { under });
    expect(code).toBe(1);
    expect(json).toContainEqual(
      expect.objectContaining({ type: "finding", ok: false, remedy: expect.stringMatching(/install/) }),
    );
  });

  test("not root", async () => {
    // May read what root may: whether the clone is open to others is not the question.
    const caps = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"];
    const under = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...caps];
    const identified = ["--identity-file", scene.identity];
    const ending = { exit: 1, kind: "refused", says: /only root/, next: /as root/ };
    await refused(["backup"], ending, { under });
    await refused(["backup", "--dry-run"], ending, { under });
    await refused(["restore", "latest", "--into", scene.target.configDirectory, ...identified], ending, { under });
    await refused(["holds", "release"], ending, { under });
  });

  test("an age recipients file with none, a malformed one, or both kinds", async () => {
    const path = join(scene.scratch, "recipients.txt");
    const [classical, other] = [await createIdentity(false), await createIdentity(true)];
    const ending = { ...config, next: /age-keygen|one age recipient per line|keep one kind/ };
    const texts: [string, string][] = [
      ["# nobody yet\n", `${path} names no age recipient`],
      [
        `${classical.recipient}\n${classical.recipient.slice(0, -1)}\nssh-ed25519 AAAA\n`,
        `${path}:2: not an age recipient: mistyped or cut short; ${path}:3: ssh keys`,
      ],
      [
        `${classical.recipient}\n${other.recipient}\n`,
        `${path} mixes X25519 recipients (line 1) and post-quantum ones (line 2)`,
      ],
    ];
    const variant = scene.variant([/^recipients_file = .*$/m, `recipients_file = ${JSON.stringify(path)}`]);
    for (const [text, says] of texts) {
      writeFileSync(path, text);
      await refused(["backup", "--config", variant], { ...ending, says });
    }
    rmSync(path);
    await refused(["backup", "--config", variant], {
      ...config,
      says: "can't be read: ENOENT",
      next: "spoolsafe init",
    });
  });

  describe("a repository that takes nothing", () => {
    test("because its disk is full", { skip: !needs("mount") }, async () => {
      const small = makeScratch({ tmpfs: "1m" });
      try {
        const url = `file://${join(small, "repository")}`;
        const init = ["init", "--repository", url, "--config", scene.variant()];
        expect(await spoolsafe(init)).toMatchObject({ code: 0 });
        fill(join(small, "filler"));
        const before = filesOf(join(small, "repository"));
        await failed(["backup", "--repository", url], {
          ...storeFailed,
          says: /no space left/i,
          next: /is full: make room/,
        });
        expect(filesOf(join(small, "repository"))).toEqual(before);
      } finally {
        destroyScratch(small);
      }
    });

    test("because it is read-only", { skip: !needs("mount") }, async () => {
      const mounted = makeScratch({ tmpfs: "1m" });
      try {
        const url = `file://${join(mounted, "repository")}`;
        expect(await spoolsafe(["init", "--repository", url, "--config", scene.variant()])).toMatchObject({ code: 0 });
        execFileSync("mount", ["-o", "remount,ro", mounted]);
        const before = tree(mounted);
        await failed(["backup", "--repository", url], { ...storeFailed, says: /read-only/, next: /remount,rw/ });
        expect(tree(mounted)).toEqual(before);
      } finally {
        execFileSync("mount", ["-o", "remount,rw", mounted]);
        destroyScratch(mounted);
      }
    });

    describe.skipIf(!needs("ceph"))("because its server", () => {
      let server: ObjectServer;
      let proxy: FaultyProxy;
      let bucket: string;
      let credentials: string;
      let env: Record<string, string>;
      beforeAll(async () => {
        server = await sharedCeph();
        proxy = await FaultyProxy.start(server.endpoint);
        bucket = await newBucket(server);
        credentials = join(scene.scratch, "credentials");
        writeCredentials(credentials, server);
        env = { AWS_ENDPOINT_URL: proxy.endpoint, AWS_SHARED_CREDENTIALS_FILE: credentials };
        const init = ["init", "--repository", `s3://${bucket}/mx1`, "--config", scene.variant()];
        const { code, stderr } = await spoolsafe(init, { env });
        if (code !== 0) throw new Error(`init failed: ${stderr}`);
      });
      afterEach(() => {
        proxy.fault = () => undefined;
      });
      afterAll(async () => proxy?.close());

      /** What is in the bucket, asked without the proxy. */
      async function objects(): Promise<string[]> {
        const store = new S3Store({ bucket, prefix: "mx1", endpoint: server.endpoint, credentialsFile: credentials });
        try {
          return (await all(store.list(""))).map(({ key, bytes }) => `${key} ${bytes}`);
        } finally {
          await store.close();
        }
      }

      async function failsWith(ending: Ending): Promise<void> {
        const before = await objects();
        await failed(["backup", "--repository", `s3://${bucket}/mx1`], ending, { env });
        expect(await objects()).toEqual(before);
      }

      const isPut = ({ method }: SeenRequest) => method === "PUT" || method === "POST";

      test("has no such bucket, or nothing of ours in it", async () => {
        const none = { ...noRepository, says: "there is no bucket spoolsafe-none", next: "make the bucket first" };
        await refused(["backup", "--repository", "s3://spoolsafe-none/mx1"], none, { env });
        const empty = {
          ...noRepository,
          says: `there is no repository at s3://${bucket}/other`,
          next: "spoolsafe init makes one",
        };
        await refused(["backup", "--repository", `s3://${bucket}/other`], empty, { env });
      });

      test("answers 403 to everything, or only to what writes", async () => {
        const ending = { ...storeFailed, says: /AccessDenied \(403\)/, next: /credentials .* need s3:ListBucket/ };
        for (const hits of [() => true, isPut]) {
          proxy.fault = (request) =>
            hits(request) ? { kind: "answer", status: 403, code: "AccessDenied" } : undefined;
          await failsWith(ending);
        }
      });

      test("answers 500 to everything, or only to what writes", async () => {
        const ending = { ...storeFailed, says: /InternalError \(500\)/, next: "the server is in trouble" };
        for (const hits of [() => true, isPut]) {
          proxy.fault = (request) =>
            hits(request) ? { kind: "answer", status: 500, code: "InternalError" } : undefined;
          await failsWith(ending);
        }
      });

      test("says nothing: in the time limits of the store, here short ones", async () => {
        const timing = { connectMs: 500, silenceMs: 500, answerMs: 1000, attempts: 2 };
        const store = new S3Store({
          bucket,
          prefix: "silent",
          endpoint: proxy.endpoint,
          credentialsFile: credentials,
          timing,
        });
        await using site = await Site.make({ store });
        const before = filesOf(scene.source.queueDirectory);
        proxy.fault = (request) => (isPut(request) ? { kind: "silence" } : undefined);
        const error = (await errorOf(() => site.backup(scene.source))) as OperatorError;
        endsAs(
          { type: "error", kind: error.kind, message: error.message, hints: error.hints, exit: error.exitCode },
          {
            ...storeFailed,
            says: /TimeoutError/,
            next: "does not answer: check the network",
          },
        );
        expect(filesOf(scene.source.queueDirectory)).toEqual(before);
        await store.close();
      });
    });
  });

  describe("a pack", () => {
    /** The packs of a copy of the repository, as paths. */
    function packsOf(directory: string): string[] {
      return readdirSync(join(directory, "packs"), { recursive: true, encoding: "utf8" })
        .filter((name) => name.length > 64)
        .map((name) => join(directory, "packs", name));
    }

    const spoilers: [string, (directory: string) => void][] = [
      [
        "with one byte flipped",
        (directory) => {
          for (const path of packsOf(directory)) {
            const bytes = readFileSync(path);
            bytes.writeUInt8(bytes.readUInt8(bytes.length - 20) ^ 1, bytes.length - 20);
            writeFileSync(path, bytes);
          }
        },
      ],
      [
        "cut short",
        (directory) => {
          for (const path of packsOf(directory)) truncateSync(path, readFileSync(path).length - 1000);
        },
      ],
      [
        "swapped with another",
        (directory) => {
          const [one = "", other = ""] = packsOf(directory);
          renameSync(one, `${one}.away`);
          renameSync(other, one);
          renameSync(`${one}.away`, other);
        },
      ],
    ];

    test.each(spoilers)("%s", async (_, spoil) => {
      // A second snapshot, so that there are two packs to swap.
      if (packsOf(join(scene.site.directory, "repository")).length < 2) {
        await scene.source.submit([plainLetter({ recipients: ["somebody@defer.test"] })]);
        await scene.source.settled();
        expect(await spoolsafe(["backup", "--config", scene.config])).toMatchObject({ code: 0 });
      }
      const copy = scene.copyOfRepository();
      spoil(copy.directory);
      const before = filesButClaims(copy.directory);
      const options = ["--config", copy.config, "--identity-file", scene.identity];
      for (const level of ["sealed", "deep"]) {
        const { code, json } = await spoolsafe(["verify", "latest", "--json", "--level", level, ...options]);
        expect(code).toBe(13);
        const { damaged: found, hints } = json.at(-1) as { damaged: { object: string }[]; hints: string[] };
        expect([...new Set(found.map(({ object }) => object))].sort()).toEqual(
          packsOf(copy.directory)
            .map((path) => path.slice(copy.directory.length + 1))
            .sort(),
        );
        expect(hints.join("\n")).toMatch(/spoolsafe backup/);
      }
      const ending = { ...damaged, says: /pack/, next: /spoolsafe verify/ };
      for (const to of [
        ["--to", scene.output],
        ["--into", scene.target.configDirectory],
      ]) {
        await failed(["restore", "latest", ...to, ...options], ending);
      }
      expect(filesButClaims(copy.directory)).toEqual(before);
      expect(await standingClaims(copy.directory, scene.site.directory)).toEqual([]);
    });
  });

  test("a snapshot signed by a stranger", async () => {
    const path = join(scene.scratch, "stranger.pub");
    writeFileSync(path, createSigningKey().publicPem);
    const believes = scene.variant([/^trusted_keys_file = .*$/m, `trusted_keys_file = ${JSON.stringify(path)}`]);
    const options = ["--config", believes, "--identity-file", scene.identity];
    for (const level of ["sealed", "deep"]) {
      const before = tree(...scene.everything);
      const { code, json } = await spoolsafe(["verify", "latest", "--json", "--level", level, ...options]);
      expect(code).toBe(13);
      expect(json.at(-1)).toMatchObject({
        type: "summary",
        damaged: expect.arrayContaining([
          expect.objectContaining({ problem: expect.stringContaining("signed by a key this host does not trust") }),
        ]),
        hints: expect.arrayContaining([expect.stringContaining("spoolsafe key add")]),
      });
      expect(tree(...scene.everything)).toEqual(before);
    }
    const ending = {
      ...damaged,
      says: "is signed by a key this host does not trust",
      next: "spoolsafe key add FILE.pub",
    };
    for (const to of [
      ["--to", scene.output],
      ["--into", scene.target.configDirectory],
    ]) {
      await refused(["restore", "latest", ...to, ...options], ending);
    }
  });

  describe("a tar inside a pack with", () => {
    const plain = queueFiles.get("plain") ?? Buffer.of();
    const name = packEntryName(digestOf(plain).digest);
    const outside = () => join(scene.scratch, "outside");
    const hostile: [string, () => TarEntry[]][] = [
      ["a name that climbs out", () => [{ name }, { name: `${"../".repeat(12)}${outside()}/escaped` }]],
      ["an absolute name", () => [{ name }, { name: `${outside()}/escaped` }]],
      ["a symbolic link in the place of a file", () => [{ name, type: "symlink", linkname: "/etc/shadow" }]],
      [
        "a symbolic link and a file through it",
        () => [{ name: "files", type: "symlink", linkname: outside() }, { name }],
      ],
      ["a hard link", () => [{ name, type: "link", linkname: "/etc/shadow" }]],
      ["a device", () => [{ name, type: "character-device", devmajor: 1, devminor: 5 }]],
      ["a FIFO", () => [{ name }, { name: "files/fifo", type: "fifo" }]],
    ];

    test.each(hostile)("%s", async (_, entries) => {
      await using site = await HandMade.make();
      const pack = await sealPack(await tarOf(plain, entries()), site.recipients);
      await site.repository.putPack(pack.id, pack.sealed);
      await site.take({
        messages: [{ bytes: plain }],
        spoil: (lines) =>
          lines.map((line) => (line.kind === "message" ? { ...line, file: { ...line.file, pack: pack.id } } : line)),
        over: { packs: [{ id: pack.id, bytes: pack.sealed.length }] },
      });
      rmSync(outside(), { recursive: true, force: true });
      mkdirSync(outside());
      const options = ["--config", handMadeConfig(site), "--identity-file", join(site.directory, "identity.txt")];
      const repository = join(site.directory, "repository");
      const now = () => [...tree(outside()), ...filesButClaims(repository)];
      const before = now();

      const sealed = await spoolsafe(["verify", "latest", "--level", "sealed", "--json", ...options]);
      expect(sealed.code).toBe(0); // nothing to be seen without the identity
      const deep = await spoolsafe(["verify", "latest", "--level", "deep", "--json", ...options]);
      expect(deep.code).toBe(13);
      expect(deep.json.at(-1)).toMatchObject({ damaged: [{ object: expect.stringContaining(pack.id) }] });
      const ending = { ...damaged, says: /tar entry/, next: /spoolsafe verify/ };
      for (const to of [
        ["--to", scene.output],
        ["--into", scene.target.configDirectory],
      ]) {
        await failed(["restore", "latest", ...to, ...options], ending);
      }
      expect(now()).toEqual(before);
      expect(await standingClaims(repository, site.directory)).toEqual([]);
    });
  });
});

interface TarEntry {
  readonly name: string;
  readonly type?: "symlink" | "link" | "character-device" | "fifo";
  readonly linkname?: string;
  readonly devmajor?: number;
  readonly devminor?: number;
}

/** An archive whose regular files all have these bytes, compressed by the caller. */
async function tarOf(bytes: Buffer, entries: readonly TarEntry[]): Promise<Buffer> {
  const archive = tarPack();
  for (const entry of entries) {
    const body = entry.type === undefined ? bytes : Buffer.alloc(0);
    archive.entry({ ...entry, size: body.length }, body);
  }
  archive.finalize();
  return Buffer.concat(await all(archive as AsyncIterable<Buffer>));
}

function handMadeConfig({ directory, repository }: HandMade): string {
  const path = join(directory, "spoolsafe.toml");
  const lines = [
    'host = "mx1.test"',
    `state_directory = ${JSON.stringify(join(directory, "state"))}`,
    `repository.url = ${JSON.stringify(repository.store.url)}`,
    `signing.key_file = ${JSON.stringify(join(directory, "signing.key"))}`,
    `signing.trusted_keys_file = ${JSON.stringify(join(directory, "trusted.pub"))}`,
  ];
  writeFileSync(path, `${lines.join("\n")}\n`);
  return path;
}

/** What a repository holds but for claims: a restore into an instance that fails has claimed the mail, and withdraws that. */
function filesButClaims(repository: string): string[] {
  return filesOf(repository).filter((line) => !/^\/claim(s|ed)\//.test(line.slice(repository.length)));
}

async function standingClaims(repository: string, keys: string) {
  const store = new DirectoryStore(repository);
  return (await listClaims(await Repository.open(store), loadTrustedKeys(join(keys, "trusted.pub")))).standing;
}

function recordsOf(repository: string): string[] {
  return readdirSync(join(repository, "snapshots"), { recursive: true, encoding: "utf8" }).filter((name) =>
    /-[0-9a-f]{64}$/.test(name),
  );
}

/** Take all the room of the file system that a file is on. */
function fill(path: string): void {
  for (let size = 1 << 16; size >= 1; size = Math.floor(size / 2)) {
    try {
      for (;;) writeFileSync(path, Buffer.alloc(size), { flag: "a" });
    } catch {
      // smaller pieces then
    }
  }
}
