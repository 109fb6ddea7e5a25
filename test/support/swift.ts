import { type ObjectServer, sharedServer } from "./object-server.ts";

/**
 * The Swift this test run shares, with its S3 face: a store that knows no conditional writes, lists late, and answers
 * 200 to requests it does not carry out.
 */
export function sharedSwift(): Promise<ObjectServer> {
  return sharedServer("swift");
}
