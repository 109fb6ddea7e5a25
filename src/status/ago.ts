/** Units an age is told in, and up to which age. */
const units = [
  { name: "s", seconds: 1, below: 120 },
  { name: "m", seconds: 60, below: 120 * 60 },
  { name: "h", seconds: 3600, below: 48 * 3600 },
  { name: "d", seconds: 86_400, below: Number.POSITIVE_INFINITY },
];

/** "90s", "26h", "3d": an age for people, rounded down so that it never claims more than there is. */
export function ago(seconds: number): string {
  const unit = units.find(({ below }) => seconds < below) ?? { name: "s", seconds: 1 };
  return `${Math.floor(Math.max(0, seconds) / unit.seconds)}${unit.name}`;
}
