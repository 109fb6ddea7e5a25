import { connect } from "node:net";
import { bad, type Finding, good } from "./finding.ts";

const limitMs = 10_000;

/** @param target a host, `host:port` or `[address]:port`; port 25 where none is named */
export async function examinePort25(target: string, signal: AbortSignal): Promise<readonly Finding[]> {
  const { host, port } = addressOf(target);
  const answer = await greeting(host, port, signal);
  const name = "port 25";
  if (answer.said !== undefined && /^220[ -]/.test(answer.said)) {
    return [good(name, `${target} greets this host: ${answer.said}`)];
  }
  const what = answer.said === undefined ? answer.problem : `says ${JSON.stringify(answer.said)} and not 220`;
  return [
    bad(
      name,
      `${target} ${what}`,
      "many providers close port 25 outbound: have it opened for this host, or set relayhost to one that takes its mail",
    ),
  ];
}

function addressOf(target: string): { readonly host: string; readonly port: number } {
  const [, bracketed, name, port] = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(target) ?? [];
  const host = bracketed ?? name ?? target;
  return { host, port: port === undefined ? 25 : Number(port) };
}

type Answer = { readonly said: string } | { readonly said?: undefined; readonly problem: string };

/** The first line a server says; the connection is closed then. */
function greeting(host: string, port: number, signal: AbortSignal): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port });
    const timer = setTimeout(() => end({ problem: `does not answer within ${limitMs / 1000} s` }), limitMs);
    const onAbort = () => {
      reject(signal.reason);
      end({ problem: "was not waited for" });
    };
    const end = (answer: Answer) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      socket.destroy();
      resolve(answer);
    };
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      const [line] = text.split(/\r?\n/);
      if (text.includes("\n") || text.length > 1000) end({ said: (line ?? "").slice(0, 200) });
    });
    socket.on("end", () => end({ problem: "closes the connection without a greeting" }));
    socket.on("error", (error: NodeJS.ErrnoException) =>
      end({ problem: `can't be reached: ${error.code ?? error.message}` }),
    );
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
}
