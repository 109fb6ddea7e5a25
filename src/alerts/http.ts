import { SendFault } from "./attempt.ts";

/** Answers after which the same request may get another one: too slow, too early, too many, the server's own trouble. */
const passing = (status: number) => status >= 500 || status === 408 || status === 425 || status === 429;

/**
 * One request to where alerts go. Its URL is a secret as often as not, and is in no error.
 *
 * @throws SendFault for every answer but a good one
 */
export async function call(url: URL, request: RequestInit): Promise<void> {
  const { username, password } = url;
  const target = new URL(url);
  target.username = target.password = "";
  const headers = new Headers(request.headers);
  headers.set("user-agent", "spoolsafe");
  if (username !== "" || password !== "") headers.set("authorization", basic(username, password));
  const response = await fetch(target, { ...request, headers });
  await response.body?.cancel();
  if (!response.ok) throw new SendFault(`answered ${response.status}`, { permanent: !passing(response.status) });
}

/** fetch refuses a URL with a user and a password in it. */
function basic(username: string, password: string): string {
  const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return `Basic ${Buffer.from(pair).toString("base64")}`;
}
