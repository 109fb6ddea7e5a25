/*
 * One operator who claims, in a process of its own: `node claiming-operator.ts REPOSITORY KEY TRUSTED BY`. Says that it is ready, begins
 * with the first byte on its standard input, and prints the id of the claim, or the kind of the error.
 */
import { loadSigningKey } from "../../src/crypto/sign.ts";
import { OperatorError } from "../../src/errors.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { takeClaim } from "../../src/repository/take-claim.ts";
import { claimRequest, identities } from "../support/claims.ts";

const [, , directory = "", keyFile = "", trustedFile = "", by = ""] = process.argv;
const repository = await Repository.open(new DirectoryStore(directory));
const request = claimRequest(repository, loadSigningKey(keyFile), trustedFile, by, identities(20));
process.stdout.write("ready\n");
await new Promise((resolve) => process.stdin.once("data", resolve));
process.stdin.destroy();
try {
  const { id } = await takeClaim(request);
  process.stdout.write(id);
} catch (error) {
  if (!(error instanceof OperatorError)) throw error;
  process.stdout.write(error.kind);
}
