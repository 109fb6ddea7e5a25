import type { Finding } from "./finding.ts";

/** How many of the checks that were made are passed: one of them may have several findings, under one name. */
export class Score {
  readonly #checks = new Map<string, boolean>();

  add({ name, ok }: Finding): void {
    this.#checks.set(name, ok && this.#checks.get(name) !== false);
  }

  get ready(): number {
    return [...this.#checks.values()].filter(Boolean).length;
  }

  get of(): number {
    return this.#checks.size;
  }

  get allOk(): boolean {
    return this.ready === this.of;
  }
}
