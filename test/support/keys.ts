import { type AgeIdentities, type AgeRecipients, createIdentity } from "../../src/crypto/keys.ts";

/** A fresh key pair in the two shapes the code takes it. */
export async function makeKeys(
  postQuantum = false,
): Promise<{ identity: string; recipient: string; identities: AgeIdentities; recipients: AgeRecipients }> {
  const { identity, recipient } = await createIdentity(postQuantum);
  return {
    identity,
    recipient,
    identities: { identities: [identity], recipients: [recipient] },
    recipients: { list: [recipient], kind: postQuantum ? "post-quantum" : "x25519" },
  };
}

/** The error something rejects or throws with; an error of its own when it does not. */
export async function errorOf(attempt: () => unknown): Promise<Error> {
  try {
    await attempt();
  } catch (error) {
    return error instanceof Error ? error : new Error(`not an error: ${String(error)}`);
  }
  throw new Error("it did not fail");
}
