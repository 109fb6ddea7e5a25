import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canary, everything, movable, postmap, query, write } from "../restore/configuration-site.ts";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, type Submitted } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";
import { until } from "../support/wait.ts";

/*
 * Configuration through the built command: what an operator sees before anything is replaced, and how to get it back.
 * Source and target are one machine here, so everything the source's settings name lies below the tests' own directories.
 */
describe.skipIf(!needs("root", "postfix", "flock"))("restoring configuration by command", () => {
  let site: Site;
  let sink: Sink;
  let named: string;
  let source: PrivatePostfix;
  let config: string;
  let letters: Submitted[];

  beforeAll(async () => {
    site = await Site.make();
    sink = await Sink.start({ domains: { "dest.test": { rcpt: "450 4.2.0 later" } } });
    named = makeScratch();
    write(join(named, "relocated"), "gone@in.test there@out.test\n");
    source = await PrivatePostfix.create({
      sink,
      main: {
        ...movable,
        myhostname: "mx1.source.test",
        virtual_alias_maps: "hash:$config_directory/virtual",
        smtp_sasl_password_maps: "hash:$config_directory/sasl_passwd",
        relocated_maps: `texthash:${named}/relocated`,
        // What newaliases(1) makes; else it would be made again of this machine's own /etc/aliases.
        default_database_type: "texthash",
      },
    });
    write(join(source.configDirectory, "virtual"), "alias@in.test real@dest.test\n");
    write(join(source.configDirectory, "sasl_passwd"), `[relay.test]:587 user:${canary}\n`, 0o600);
    for (const name of ["virtual", "sasl_passwd"]) postmap("postmap", source, `hash:${name}`);
    await source.start();
    const addresses = ["a@dest.test", "alias@in.test", "b@dest.test"];
    letters = await source.submit(addresses.map((address) => plainLetter({ recipients: [address] })));
    await until(() => source.counts().deferred === 3, { what: "three messages deferred" });
    await source.stop();
    // Its start wrote these into main.cf as they were then.
    for (const [name, value] of Object.entries(movable)) await source.setParameter(name, value);
    await site.backup(source);
    sink.set("dest.test", {});
    config = site.configure([]);
  });
  afterAll(async () => {
    source?.destroy();
    await sink?.close();
    if (named !== undefined) destroyScratch(named);
    await site?.[Symbol.asyncDispose]();
  });

  /** A target with a table and a secret of its own, which the source has otherwise. */
  async function target(): Promise<PrivatePostfix> {
    const postfix = await PrivatePostfix.create({ main: { ...movable, myhostname: "mx2.target.test" } });
    write(join(postfix.configDirectory, "virtual"), "alias@in.test old@dest.test\n");
    write(join(postfix.configDirectory, "sasl_passwd"), `[relay.test]:587 user:here-${canary}\n`, 0o600);
    write(join(postfix.configDirectory, "only-here"), "kept\n");
    return postfix;
  }
  const command = (args: readonly string[], options = {}) =>
    spoolsafe([...args, "--config", config, "--identity-file", join(site.directory, "identity.txt")], options);
  const restore = (...args: string[]) => command(["restore", "latest", ...args]);
  const kept = () => {
    const directory = join(site.stateDirectory, "replaced");
    return existsSync(directory) ? readdirSync(directory).sort() : [];
  };

  test("a dry run shows the diff and what to look at, but no secret, and touches nothing", async () => {
    await using postfix = await target();
    const before = [everything(postfix.directory, named), kept()];
    const { code, json } = await restore("--into", postfix.configDirectory, "--config-only", "--dry-run", "--json");
    expect(code).toBe(0);
    const files = json.filter(({ type }) => type === "config-file");
    // A snapshot of this very machine: nothing outside the tests' own directories may be at stake.
    const outside = files.filter(({ path }) => ![named, postfix.directory].some((own) => `${path}`.startsWith(own)));
    expect(outside.filter(({ action }) => action !== "same" && action !== "left")).toEqual([]);
    const at = (name: string) => join(postfix.configDirectory, name);
    const actions = Object.fromEntries(files.map(({ path, action }) => [path, action]));
    expect(actions).toMatchObject({
      [at("main.cf")]: "changed",
      [at("virtual")]: "changed",
      [at("virtual.db")]: "rebuilt",
      [at("sasl_passwd")]: "changed",
      [at("only-here")]: "kept",
      [join(named, "relocated")]: "same",
    });
    expect(files.find(({ path }) => path === at("sasl_passwd"))).toMatchObject({
      secret: true,
      difference: { kind: "secret" },
    });
    const reviewed = json.filter(({ type }) => type === "config-review").map(({ setting }) => setting);
    expect(reviewed).toContain("main.cf myhostname");
    expect(json.at(-1)).toMatchObject({
      type: "summary",
      configuration: { run: null, keptIn: null, written: 0, running: false, problems: [], files: { rebuilt: 2 } },
    });

    const text = await restore("--into", postfix.configDirectory, "--config-only", "--dry-run");
    expect(text.stdout).toContain("-alias@in.test old@dest.test\n+alias@in.test real@dest.test");
    expect(text.stdout).toContain(`changed  ${at("sasl_passwd")}  0600 root:root: changed, not shown`);
    for (const said of [JSON.stringify(json), text.stdout, text.stderr]) expect(said).not.toContain(canary);
    expect([everything(postfix.directory, named), kept()]).toEqual(before);
  });

  test("nothing is replaced unasked, nor against the answer", async () => {
    await using postfix = await target();
    const before = [everything(postfix.directory), kept()];
    const args = ["--into", postfix.configDirectory, "--config-only"];
    const unasked = await restore(...args, "--json");
    expect(unasked.code).toBe(2);
    expect(unasked.json.at(-1)).toMatchObject({ kind: "usage", hints: [expect.stringContaining("--yes")] });
    const terminal = [
      ...["bash", "-c", 'exec script --quiet --return --command "$(printf "%q " "$@")" /dev/null', "bash"],
    ];
    const refused = await command(["restore", "latest", ...args], { under: terminal, input: "n\n" });
    expect(refused.stdout).toContain(`will be replaced: ${join(postfix.configDirectory, "virtual")}`);
    expect(refused.stdout).toMatch(/replace \d+ files on this host by what mx1\.source\.test had on [\d-]+\? \[y\/N\]/);
    expect(refused.stdout).toContain("Nothing was changed.");
    expect(refused.code).toBe(1);
    expect([everything(postfix.directory), kept()]).toEqual(before);
  });

  test("with its configuration a stopped instance delivers the mail as the source would have; undo puts its own back", async () => {
    await using postfix = await target();
    const before = everything(postfix.configDirectory);
    const { code, json } = await restore("--into", postfix.configDirectory, "--with-config", "--yes", "--json");
    expect({ code, last: json.at(-1) }).toMatchObject({ code: 0, last: { type: "summary", restored: 3 } });
    const { configuration } = json.at(-1) as { configuration: { run: string; keptIn: string } };
    const { run, keptIn } = configuration;
    expect(configuration).toMatchObject({ problems: [], files: { new: 0 } });
    expect(statSync(keptIn).mode & 0o7777).toBe(0o700);
    expect(await query(postfix, `hash:${join(postfix.configDirectory, "sasl_passwd")}`, "[relay.test]:587")).toBe(
      `user:${canary}`,
    );
    expect(JSON.stringify(json)).not.toContain(canary);
    postfix.port = source.port;
    await postfix.postfix("start");
    await allTried(postfix);
    await postfix.stop();
    expect(letters.map(({ messageId }) => sink.deliveries.filter((one) => one.messageId === messageId))).toMatchObject([
      [{ recipient: "a@dest.test" }],
      [{ recipient: "real@dest.test" }],
      [{ recipient: "b@dest.test" }],
    ]);

    const undo = await command(["undo", run, "--yes", "--json"]);
    expect(undo.code).toBe(0);
    expect(undo.json.at(-1)).toMatchObject({ type: "summary", run, running: false, left: [] });
    expect(undo.json).toContainEqual(
      expect.objectContaining({
        type: "config-undone",
        path: join(postfix.configDirectory, "virtual"),
        action: "put-back",
      }),
    );
    expect(everything(postfix.configDirectory)).toEqual(before);
  });

  test("what could not be placed is an incomplete restore, also of a Postfix that runs; what was edited since stays at an undo", async () => {
    await using postfix = await target();
    rmSync(join(postfix.configDirectory, "virtual"));
    mkdirSync(join(postfix.configDirectory, "virtual"));
    await postfix.start();
    const { code, stdout, stderr } = await restore("--into", postfix.configDirectory, "--config-only", "--yes");
    expect(code).toBe(3);
    expect(stderr).toContain("Postfix runs here");
    expect(stdout).toContain(`virtual was not placed: there is a directory in its place here`);
    expect(stdout).toContain(`Postfix runs: postfix -c ${postfix.configDirectory} reload`);
    expect(await postfix.postconf("myhostname")).toBe("mx1.source.test");
    expect(Object.values(postfix.counts()).every((count) => count === 0)).toBe(true);

    const [, run = ""] = /spoolsafe undo (\S+)/.exec(stdout) ?? [];
    write(join(postfix.configDirectory, "sasl_passwd"), "edited since\n", 0o600);
    const undo = await command(["undo", run, "--yes"]);
    expect(undo.code).toBe(3);
    expect(undo.stderr).toMatch(/sasl_passwd was left as it is: it was changed since; .* lies in .*\/replaced\//);
    expect(undo.stdout).toContain(`Postfix runs: postfix -c ${postfix.configDirectory} reload`);
    expect(await postfix.postconf("myhostname")).toBe("mx2.target.test");
  });

  test("where its mail can't go, the configuration is not replaced either", async () => {
    await using postfix = await target();
    await postfix.start();
    const before = [everything(postfix.configDirectory), kept()];
    const { code, stderr } = await restore("--into", postfix.configDirectory, "--with-config", "--yes");
    expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringMatching(/running|runs/) });
    expect([everything(postfix.configDirectory), kept()]).toEqual(before);
  });

  test("as plain files the configuration comes without the mail", async () => {
    const to = join(named, "files");
    const { code, json } = await restore("--to", to, "--config-only", "--json");
    expect(code).toBe(0);
    expect(json.at(-1)).toMatchObject({ type: "summary", run: null, directory: to, restored: 0 });
    const [instance = ""] = readdirSync(to).filter((name) => name !== "host" && name !== "runbooks");
    expect(readdirSync(join(to, instance)).sort()).toEqual(["config", "files", "reports"]);
    const master = readFileSync(join(source.configDirectory, "master.cf"));
    expect(readFileSync(join(to, instance, "config/master.cf"))).toEqual(master);
    expect(existsSync(join(to, instance, "files", named, "relocated"))).toBe(true);
  });
});
