import { describe, expect, test } from "vitest";
import { parseConfig } from "../../src/config/load.ts";
import { configSchema, sections } from "../../src/config/schema.ts";
import { configText } from "../../src/config/template.ts";
import { readToml } from "../../src/config/toml.ts";

const sources = { flags: {}, env: {}, cwd: "/" };

describe("configText", () => {
  test("names every option of the table", () => {
    const text = configText({}, ["title"]);
    for (const [section, options] of Object.entries(sections)) {
      if (section !== "") expect(text).toContain(`\n[${section}]\n`);
      for (const key of Object.keys(options)) expect(text).toMatch(new RegExp(`^# ${key} = `, "m"));
    }
  });

  test("read back, it says what was given and else the defaults", () => {
    const values = {
      host: "mx1",
      "repository.url": "file:///b",
      "signing.key_file": "/nonexistent/key",
      "postfix.config_directories": ["/etc/postfix"],
      "postfix.hold_batch": 7,
    };
    const text = configText(values, ["title"]);
    expect(readToml(text).values).toEqual({
      host: "mx1",
      repository: { url: "file:///b" },
      encryption: {},
      signing: { key_file: "/nonexistent/key" },
      postfix: { config_directories: ["/etc/postfix"], hold_batch: 7 },
      limits: {},
      retention: {},
      schedule: {},
      drill: {},
      thresholds: {},
      alerts: {},
      status: {},
    });
    expect(parseConfig(text, "/x", sources).postfix.hold_batch).toBe(7);
  });

  test("every commented line is valid once its # is gone", () => {
    const lines = configText({}, ["title"]).split("\n");
    const text = lines.map((line) => line.replace(/^# (\w+ = )/, "$1")).join("\n");
    expect(configSchema.safeParse(readToml(text).values).error?.issues ?? []).toEqual([]);
  });
});
