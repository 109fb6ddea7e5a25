import { type ObjectServer, sharedServer, startServer, stopServer } from "./object-server.ts";

/** The Ceph gateway this test run shares: started by the first who asks, ended with the run. */
export function sharedCeph(): Promise<ObjectServer> {
  return sharedServer("ceph");
}

/** A Ceph gateway of one's own, data in memory, for programs that are no test. @param directory short and absolute */
export function startCeph(directory: string, port: number): Promise<ObjectServer> {
  return startServer("ceph", directory, port);
}

export function stopCeph(directory: string): Promise<void> {
  return stopServer("ceph", directory);
}
