import { readFileSync } from "node:fs";
import { BlockList, isIP } from "node:net";
import { hostname, networkInterfaces } from "node:os";

/**
 * Whether this name or address is known to mean this host, by what can be read without asking anybody: loopback, its own
 * addresses and name, and the names /etc/hosts gives to those (hosts(5)). A name only the DNS knows is looked up first and
 * its addresses given to `isOwnAddress`.
 *
 * @param others further names of this host
 */
export function isOwnHost(nameOrAddress: string, others: readonly (string | undefined)[] = []): boolean {
  const name = plain(nameOrAddress);
  if (isIP(name) > 0) return isOwnAddress(name);
  if (/(^|\.)localhost$|^ip6-(localhost|loopback)$|^localhost\.localdomain$/.test(name)) return true;
  const own = [hostname(), ...others].flatMap((each) => (each ? [plain(each), plain(each.split(".")[0] ?? "")] : []));
  return own.includes(name) || hostsFileNames().includes(name);
}

/** Whether this address, IPv4 or IPv6, is one of this host's; the unspecified address reaches it as well. */
export function isOwnAddress(address: string): boolean {
  const own = new BlockList();
  own.addSubnet("127.0.0.0", 8, "ipv4");
  own.addAddress("0.0.0.0", "ipv4");
  own.addAddress("::1", "ipv6");
  own.addAddress("::", "ipv6");
  for (const each of Object.values(networkInterfaces()).flat()) {
    if (each !== undefined) own.addAddress(each.address, each.family === "IPv6" ? "ipv6" : "ipv4");
  }
  // BlockList finds an IPv4 address written as IPv6 (::ffff:127.0.0.1) among those of IPv4.
  return isIP(address) > 0 && own.check(address, isIP(address) === 6 ? "ipv6" : "ipv4");
}

/** Lower case, without brackets and the dot at the end; an IPv4 address in short form (127.1) in full. */
function plain(name: string): string {
  const bare = name.toLowerCase().replace(/^\[|\]$|\.$/g, "");
  if (!/^[\dx.a-f]+$/.test(bare)) return bare;
  return URL.canParse(`http://${bare}`) ? new URL(`http://${bare}`).hostname : bare;
}

function hostsFileNames(): string[] {
  return hostsFile()
    .split("\n")
    .map((line) => line.replace(/#.*/, "").trim().split(/\s+/))
    .filter(([address = ""]) => isOwnAddress(address))
    .flatMap(([, ...names]) => names.map((name) => name.toLowerCase()));
}

function hostsFile(): string {
  try {
    return readFileSync("/etc/hosts", "utf8");
  } catch {
    // A host need not have one.
    return "";
  }
}
