import { OperatorError } from "../errors.ts";

/** What a failed request of the SDK tells, whatever its class: its errors differ between operations and servers. */
export interface S3Failure {
  /** The server's error code (`AccessDenied`), or the class of a failure on the way (`TimeoutError`). */
  readonly name: string;
  /** HTTP status, undefined when no answer came. */
  readonly status: number | undefined;
  /** Of a system call or TLS (`ECONNREFUSED`). */
  readonly code: string | undefined;
  readonly message: string;
}

export function failureOf(error: unknown): S3Failure {
  const message = error instanceof Error ? error.message : String(error);
  const name = error instanceof Error ? error.name : "Error";
  const metadata = field(error, "$metadata");
  const status = field(metadata, "httpStatusCode");
  const code = field(error, "code") ?? field(field(error, "cause"), "code");
  return {
    name,
    status: typeof status === "number" ? status : undefined,
    code: typeof code === "string" ? code : undefined,
    message,
  };
}

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

/** The key is not there. A missing bucket is something else, but a HEAD can't tell: its answers have no body. */
export function isMissingKey({ name, status }: S3Failure): boolean {
  return (
    name === "NoSuchKey" ||
    name === "NotFound" ||
    (status === 404 && name !== "NoSuchBucket" && name !== "NoSuchUpload")
  );
}

/** A conditional write was refused because the key is there. */
export function isTaken({ name, status }: S3Failure): boolean {
  return status === 412 || name === "PreconditionFailed";
}

/** Two conditional writes of one key met, and the server lets neither win (AWS does that). */
export function isConflict({ name, status }: S3Failure): boolean {
  return status === 409 && name === "ConditionalRequestConflict";
}

/** The server does not know this request or header. */
export function isUnsupported({ name, status }: S3Failure): boolean {
  return status === 501 || name === "NotImplemented";
}

export interface S3Place {
  readonly url: string;
  readonly bucket: string;
  readonly endpoint: string | undefined;
}

/**
 * Word a failure for people: what was tried, what the server said, what to do. The SDK's own error object is not kept
 * as cause, because it holds the signed request.
 *
 * @param what e.g. `store packs/ab/...`
 */
export function explain(what: string, error: unknown, place: S3Place): OperatorError {
  if (error instanceof OperatorError) return error;
  const failure = failureOf(error);
  const said = wordsOf(failure);
  const cause = new Error(said);
  if (failure.name === "NoSuchBucket") {
    return new OperatorError("no-repository", `there is no bucket ${place.bucket} (${place.url})`, {
      hints: [
        "make the bucket first, spoolsafe makes none",
        "is repository.url right, and endpoint and region with it?",
      ],
      cause,
    });
  }
  const [kind, hints] = adviceFor(failure, place);
  return new OperatorError(kind, `could not ${what} at ${place.url}: ${said}`, { hints, cause });
}

function wordsOf({ name, status, code, message }: S3Failure): string {
  const label = name === "Error" || name === "AggregateError" ? (code ?? name) : name;
  const named = status === undefined || String(status) === label ? label : `${label} (${status})`;
  const text = message.trim();
  return text === "" || text === "UnknownError" || text === label ? named : `${named}: ${text}`;
}

function adviceFor(failure: S3Failure, place: S3Place): ["store-failed" | "config", string[]] {
  const { name, status, code } = failure;
  const where = place.endpoint ?? "AWS";
  if (name === "CredentialsProviderError") {
    return ["config", ["set repository.credentials_file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"]];
  }
  if (/region is missing/i.test(failure.message)) return ["config", ["set repository.region"]];
  return ["store-failed", hintsFor(name, status, code, where)];
}

function hintsFor(name: string, status: number | undefined, code: string | undefined, where: string): string[] {
  switch (name) {
    case "RequestTimeTooSkewed":
      return ["this machine's clock and the server's differ: set it right (timedatectl), then run this again"];
    case "SignatureDoesNotMatch":
      return ["the secret key is wrong: check the credentials", "with the right key: check region and path_style"];
    case "InvalidAccessKeyId":
    case "ExpiredToken":
    case "InvalidToken":
      return ["the server does not know this access key: check the credentials and the endpoint"];
    case "PermanentRedirect":
    case "AuthorizationHeaderMalformed":
    case "IllegalLocationConstraintException":
      return ["the bucket is in another region: set repository.region"];
    case "QuotaExceeded":
    case "XMinioStorageFull":
    case "InsufficientStorage":
      return ["the store is full: make room or raise the quota, then run this again"];
    case "SlowDown":
      return ["the server asks to slow down: run this again later"];
    case "TimeoutError":
      return [`${where} does not answer: check the network and the server, then run this again`];
    default:
      return hintsForStatus(status, code, where);
  }
}

function hintsForStatus(status: number | undefined, code: string | undefined, where: string): string[] {
  if (status === 401 || status === 403) {
    return [
      "these credentials may not do that: they need s3:ListBucket, s3:GetObject, s3:PutObject, s3:AbortMultipartUpload, and for prune s3:DeleteObject",
      "with object_lock_days also s3:GetBucketObjectLockConfiguration, s3:PutObjectRetention and s3:GetObjectRetention",
    ];
  }
  if (status === 507) return ["the store is full: make room or raise the quota, then run this again"];
  if (status === 501) return ["this server lacks something spoolsafe needs: see what it says, and ask its maker"];
  if (status !== undefined && status >= 500) return ["the server is in trouble: see its log, then run this again"];
  if (status !== undefined) return [];
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") {
    return [
      `the name of ${where} can't be resolved: check the endpoint and DNS; path_style = true keeps the bucket out of the name`,
    ];
  }
  if (code !== undefined && /CERT|SELF_SIGNED|UNABLE_TO_/.test(code)) {
    return ["its certificate is not trusted: NODE_EXTRA_CA_CERTS names a file with the CA's certificate"];
  }
  if (code === "ECONNREFUSED") return [`nothing listens at ${where}: is the server running, and the endpoint right?`];
  return [`check the network between here and ${where}, then run this again`];
}
