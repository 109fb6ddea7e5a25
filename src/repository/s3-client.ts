import type { S3Client } from "@aws-sdk/client-s3";
import { readSecret } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { credentialsInUrl, withoutCredentials } from "./store-address.ts";

/** Where a bucket is and how to reach it. */
export interface S3Settings {
  readonly bucket: string;
  /** Without slashes at its ends; empty for the whole bucket. */
  readonly prefix: string;
  /** S3 other than AWS: its http:// or https:// URL. */
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  /** Bucket in the path and not in the host name; default: true with an endpoint of one's own. */
  readonly pathStyle?: boolean | undefined;
  readonly credentialsFile?: string | undefined;
}

export interface S3Timing {
  /** Milliseconds until a connection stands; default 10 s. */
  readonly connectMs?: number;
  /** Milliseconds without a byte in either direction; default 60 s. */
  readonly silenceMs?: number;
  /** Milliseconds from a request to the headers of its answer; default 10 min. */
  readonly answerMs?: number;
  /** How often a request is tried before its failure counts; default 5. */
  readonly attempts?: number;
}

export interface S3Connection {
  readonly client: S3Client;
  readonly sdk: typeof import("@aws-sdk/client-s3");
  /**
   * True where the server stores the checksums it is sent (AWS). Many others refuse or ignore them, and the SDK sends
   * them by default since 3.729.0 (aws/aws-sdk-js-v3#6810), so with an endpoint of one's own they stay off.
   */
  readonly checksums: boolean;
}

/**
 * Load the SDK and make a client whose every request ends: inactivity is what catches a server that went silent, also
 * while a body is under way; the handler's own defaults wait for ever, and its requestTimeout alone only warns.
 *
 * @throws OperatorError `config` for an endpoint or credentials file that can't be used
 */
export async function connect(
  settings: S3Settings,
  timing: S3Timing,
  checksums = settings.endpoint === undefined,
): Promise<S3Connection> {
  const { endpoint, credentialsFile } = settings;
  if (endpoint !== undefined) checkEndpoint(endpoint);
  const credentials = credentialsFile === undefined ? undefined : loadCredentials(credentialsFile);
  // Here and not above: the SDK takes 0.1 to 0.3 s to load, and most commands never talk to S3.
  const [sdk, { NodeHttpHandler }] = await Promise.all([
    import("@aws-sdk/client-s3"),
    import("@smithy/node-http-handler"),
  ]);
  const region = settings.region ?? (endpoint === undefined ? undefined : "us-east-1");
  const agent = { keepAlive: true, maxSockets: 16 };
  const when = checksums ? ("WHEN_SUPPORTED" as const) : ("WHEN_REQUIRED" as const);
  const client = new sdk.S3Client({
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
    ...(credentials === undefined ? {} : { credentials }),
    forcePathStyle: settings.pathStyle ?? endpoint !== undefined,
    requestChecksumCalculation: when,
    responseChecksumValidation: when,
    maxAttempts: timing.attempts ?? 5,
    retryMode: "standard",
    requestHandler: new NodeHttpHandler({
      connectionTimeout: timing.connectMs ?? 10_000,
      socketTimeout: timing.silenceMs ?? 60_000,
      requestTimeout: timing.answerMs ?? 600_000,
      throwOnRequestTimeout: true,
      httpAgent: agent,
      httpsAgent: agent,
    }),
    // Warnings of the SDK are for its programmers; what went wrong is in the errors.
    logger: { trace: ignore, debug: ignore, info: ignore, warn: ignore, error: ignore },
  });
  return { client, sdk, checksums };
}

function ignore(): void {}

function checkEndpoint(endpoint: string): void {
  const shown = withoutCredentials(endpoint);
  if (shown !== endpoint) throw credentialsInUrl(shown);
  if (URL.canParse(endpoint) && /^https?:$/.test(new URL(endpoint).protocol)) return;
  throw new OperatorError("config", `the endpoint ${shown} is no http:// or https:// URL`, {
    hints: ["example: https://s3.example.net"],
  });
}

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** @throws OperatorError `config`: missing, open to others, or without a pair of keys; never quotes what is in it */
export function loadCredentials(path: string): S3Credentials {
  return parseCredentials(readSecret(path, "S3 credentials file", "config"), path);
}

/** Read the shared-credentials format: profile `[default]`, or the only one there is. */
export function parseCredentials(text: string, path: string): S3Credentials {
  const profiles = readProfiles(text);
  const chosen = profiles.get("default") ?? (profiles.size === 1 ? [...profiles.values()][0] : undefined);
  if (chosen === undefined) {
    const found = profiles.size === 0 ? "no profile" : `the profiles ${[...profiles.keys()].join(", ")}`;
    throw new OperatorError("config", `${path} has ${found} and no [default]`, { hints: [credentialsExample] });
  }
  const accessKeyId = chosen.get("aws_access_key_id");
  const secretAccessKey = chosen.get("aws_secret_access_key");
  if (!accessKeyId || !secretAccessKey) {
    const missing = accessKeyId ? "aws_secret_access_key" : "aws_access_key_id";
    throw new OperatorError("config", `${path} has no ${missing}`, { hints: [credentialsExample] });
  }
  const sessionToken = chosen.get("aws_session_token");
  return { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) };
}

const credentialsExample =
  "three lines are needed: [default], aws_access_key_id = ..., aws_secret_access_key = ...; mode 0600";

function readProfiles(text: string): Map<string, Map<string, string>> {
  const profiles = new Map<string, Map<string, string>>();
  let current: Map<string, string> | undefined;
  for (const line of text.split(/\r?\n/).map((each) => each.trim())) {
    const section = /^\[\s*(?:profile\s+)?([^\]]+?)\s*\]$/.exec(line)?.[1];
    const [, name, value] = /^([A-Za-z_]+)\s*=\s*(.*)$/.exec(line) ?? [];
    if (section !== undefined) {
      current = new Map();
      profiles.set(section, current);
    } else if (name !== undefined && value !== undefined) {
      current?.set(name.toLowerCase(), value);
    }
  }
  return profiles;
}
