/** Accepted before and after the command. */
export interface GlobalOptions {
  readonly config?: string | undefined;
  readonly repository?: string | undefined;
  readonly host?: string | undefined;
  readonly instance?: string | undefined;
  readonly identityFile?: string | undefined;
  readonly json?: true | undefined;
  readonly quiet?: true | undefined;
  readonly verbose?: true | undefined;
  readonly yes?: true | undefined;
}
