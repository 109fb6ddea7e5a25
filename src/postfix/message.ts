/** A recipient record of a queue file, in file order. The same address may stand there more than once. */
export interface QueueRecipient {
  readonly address: string;
  /** True once a delivery agent, or bounce(8) after expiry, has marked the record `D`: nothing is left to do for it. */
  readonly done: boolean;
  /** Absolute offset in bytes of the record's type byte, where `R` becomes `D`. */
  readonly offset: number;
}

/**
 * What a queue file says of its message, read by the pointer walk of Postfix's own readers (`cleanup/`, `qmgr_message.c`,
 * `global/rec_type.h`): records from offset 0, `p` records followed, until `E`.
 */
export interface MessageFacts {
  /** The `create_time` attribute (seconds since 1970, as text), else the arrival time's seconds: part of the identity. */
  readonly created: string;
  /** Seconds since 1970 with fraction, from the `T` record. */
  readonly arrival: number;
  /** Envelope sender; empty for a notice (null sender). */
  readonly sender: string;
  readonly recipients: readonly QueueRecipient[];
  /** Content size in bytes: of the `C` record, or of the content itself in a maildrop file, which has none. */
  readonly size: number;
  /**
   * SHA-256 (hexadecimal) of the message's text: payloads of the walk from `M` to `X` or `E`, a newline after each `N`
   * record. Marks, padding and the way the text is cut into records do not change it.
   */
  readonly content: string;
  /** The `Message-ID` header with its angle brackets, as first met in the header; null without one. */
  readonly messageId: string | null;
  /** The `L` record (content_filter `transport:nexthop`) or null. */
  readonly contentFilter: string | null;
  /** The 6th field of the `C` record: SMTPUTF8 bits, and from Postfix 3.10 on sendopts (16: TLS-Required no, 32: REQUIRETLS). */
  readonly sendopts: number;
  /**
   * Seconds since 1970 of the `W` record: from then on the first attempt that fails is followed by a warning to the sender.
   * cleanup(8) writes it on arrival, from delay_warning_time as it is then, never for a notice. Null without one, and
   * once the warning has been sent (qmgr sets it to -1).
   */
  readonly delayWarning: number | null;
}
