/** Text of RECOVER.txt. */
export function recoveryPage(): string {
  return "";
}
