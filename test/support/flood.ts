import { plainLetter, type Submitted } from "./postfix.ts";
import { type Letter, SmtpClient } from "./smtp.ts";

/** main.cf of an instance that lets tests say who they are: a login, and an address of 192.0.2.0/24 (XCLIENT_README). */
export const trustsXclient = {
  smtpd_authorized_xclient_hosts: "127.0.0.0/8",
  mynetworks: "127.0.0.0/8, 192.0.2.0/24",
};

export interface FloodOptions {
  /** The name they logged in with. */
  readonly login?: string;
  /** The address they come from. */
  readonly address?: string;
  readonly sender?: string;
  readonly recipients: readonly string[];
}

/** Hand in a letter for each recipient over one connection, as somebody who logged in, or from elsewhere. */
export async function flood(port: number, options: FloodOptions): Promise<Submitted[]> {
  const { login, address, sender = "stolen@src.test", recipients } = options;
  const letters = recipients.map((recipient): Letter => plainLetter({ sender, recipients: [recipient] }));
  const client = await SmtpClient.open(port);
  try {
    const words = [
      ...(login === undefined ? [] : [`LOGIN=${login}`]),
      ...(address === undefined ? [] : [`ADDR=${address}`, "NAME=[UNAVAILABLE]"]),
    ];
    if (words.length > 0) {
      await client.command(`XCLIENT ${words.join(" ")}`, "220");
      await client.command("EHLO client.test", "250");
    }
    const done: Submitted[] = [];
    for (const letter of letters) done.push({ ...letter, queueId: await client.send(letter) });
    await client.quit();
    return done;
  } finally {
    client.close();
  }
}
