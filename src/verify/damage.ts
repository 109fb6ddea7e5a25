/** Something that is not as it should be, and what it takes along. */
export interface Damage {
  /** Id of the snapshot affected; null when what is missing is a snapshot. */
  readonly snapshot: string | null;
  /** Key of the object at fault in the repository; null when it is the snapshot's own account that does not add up. */
  readonly object: string | null;
  /** Queue id of the message affected, as the snapshot has it; null when no message is, or every one. */
  readonly message: string | null;
  /** A lower-case fact. */
  readonly problem: string;
}
