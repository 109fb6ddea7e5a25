import { DirectoryStore } from "./directory.ts";
import type { ObjectStore } from "./object-store.ts";
import { S3Store } from "./s3.ts";
import { parseStoreUrl } from "./store-address.ts";

export { parseStoreUrl, type StoreAddress } from "./store-address.ts";

/** What names a place for a repository: the keys of `[repository]` and `[[copy]]` that say where and how to reach it. */
export interface StoreSettings {
  readonly url: string;
  /** S3 other than AWS: its http:// or https:// URL. */
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  readonly pathStyle?: boolean | undefined;
  /** Shared-credentials format, mode 0600; undefined: what the SDK finds (environment, ~/.aws, instance role). */
  readonly credentialsFile?: string | undefined;
  /** Days for which everything written is locked; 0 or undefined for no locks. A directory with locks takes no writes. */
  readonly lockDays?: number | undefined;
}

/**
 * The store a URL names. Nothing is contacted or read yet.
 *
 * @throws OperatorError `config` for a URL or endpoint that names no store, or has credentials in it
 */
export function openStore(settings: StoreSettings): ObjectStore {
  const address = parseStoreUrl(settings.url);
  if (address.kind === "directory") return new DirectoryStore(address.path, { lockDays: settings.lockDays });
  return new S3Store({ ...settings, ...address });
}
