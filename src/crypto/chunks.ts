/** Cuts a stream of chunks of any size into the pieces a format asks for. Holds little more than one piece in memory. */
export class ChunkReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #held: Buffer[] = [];
  #size = 0;
  #ended = false;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Exactly so many bytes; fewer only where the stream ends. */
  async read(length: number): Promise<Buffer> {
    const all = await this.#fill(length);
    this.#keep(all.subarray(length));
    return all.subarray(0, length);
  }

  /** What is there, at least one byte and at most so many; nothing only where the stream ends. */
  async readSome(most: number): Promise<Buffer> {
    if (this.#size === 0) this.#keep(await this.#fill(1));
    const first = this.#held[0] ?? Buffer.alloc(0);
    const piece = first.subarray(0, most);
    this.#size -= piece.length;
    if (piece.length === first.length) this.#held.shift();
    else this.#held[0] = first.subarray(piece.length);
    return piece;
  }

  /** Put back what was read too far. */
  unread(piece: Buffer): void {
    if (piece.length === 0) return;
    this.#held.unshift(piece);
    this.#size += piece.length;
  }

  /** True when nothing is left. */
  async atEnd(): Promise<boolean> {
    if (this.#size === 0) this.#keep(await this.#fill(1));
    return this.#size === 0;
  }

  /** Stop reading early; the source is told, so that it can free what it holds. */
  async close(): Promise<void> {
    if (!this.#ended) await this.#source.return?.();
    this.#ended = true;
  }

  /** Take everything held, read on until it is so long, and hand it over as one. */
  async #fill(length: number): Promise<Buffer> {
    while (this.#size < length && !this.#ended) {
      const next = await this.#source.next();
      if (next.done) {
        this.#ended = true;
      } else if (next.value.length > 0) {
        const { buffer, byteOffset, byteLength } = next.value;
        this.#held.push(Buffer.from(buffer, byteOffset, byteLength));
        this.#size += byteLength;
      }
    }
    const all = this.#held.length === 1 ? (this.#held[0] ?? Buffer.alloc(0)) : Buffer.concat(this.#held);
    this.#held = [];
    this.#size = 0;
    return all;
  }

  #keep(rest: Buffer): void {
    this.#held = rest.length === 0 ? [] : [rest];
    this.#size = rest.length;
  }
}
