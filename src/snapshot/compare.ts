import type { MessageFacts } from "../postfix/message.ts";
import type { MessageEntry } from "./manifest.ts";

/** What a queue file says of its message against what the manifest says. @returns the first difference, or null */
export function differentFacts(facts: MessageFacts, entry: MessageEntry): string | null {
  if (facts.sender !== entry.sender) return `its sender is ${facts.sender}, the manifest has ${entry.sender}`;
  if (facts.created !== entry.created) return `it was created at ${facts.created}, the manifest has ${entry.created}`;
  if (facts.content !== entry.content) return "its text does not have the digest of the manifest";
  if (facts.size !== entry.size) return `its text has ${facts.size} bytes, the manifest has ${entry.size}`;
  if (facts.recipients.length !== entry.recipients.length) {
    return `it has ${facts.recipients.length} recipients, the manifest has ${entry.recipients.length}`;
  }
  const index = facts.recipients.findIndex(({ address, done }, i) => {
    const said = entry.recipients[i];
    return said?.address !== address || said.done !== done;
  });
  return index < 0 ? null : `its recipient ${index + 1} or the mark on it is not the manifest's`;
}
