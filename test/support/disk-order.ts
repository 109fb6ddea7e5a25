import fs, { readlinkSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";

/**
 * Watch the real calls that write to files and make them durable, in their order, as `write PATH` and `sync PATH`.
 * Writes of one file in a row count once.
 */
export function watchDisk(): { readonly calls: readonly string[] } & Disposable {
  const calls: string[] = [];
  const real = { writeSync: fs.writeSync, fsyncSync: fs.fsyncSync, fdatasyncSync: fs.fdatasyncSync };
  const watched = (word: string, call: (fd: number, ...rest: never[]) => unknown) => {
    return (fd: number, ...rest: never[]) => {
      const line = `${word} ${readlinkSync(`/proc/self/fd/${fd}`)}`;
      if (calls.at(-1) !== line) calls.push(line);
      return call(fd, ...rest);
    };
  };
  Object.assign(fs, {
    writeSync: watched("write", real.writeSync),
    fsyncSync: watched("sync", real.fsyncSync),
    fdatasyncSync: watched("sync", real.fdatasyncSync),
  });
  syncBuiltinESMExports();
  return {
    calls,
    [Symbol.dispose]: () => {
      Object.assign(fs, real);
      syncBuiltinESMExports();
    },
  };
}
