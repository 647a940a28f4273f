/** Tables for people: as wide as the terminal at most, the last column wrapped. */
import { printable } from '../telemetry/plugin-logs.ts';

const GAP = '  ';
const NARROWEST = 16;

/** Cells may hold text that a plugin's author wrote; it is shown without control characters. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  columns: number,
): string {
  const cells = [head, ...rows].map((row) => row.map(printable));
  const widths = head.map((_, i) => Math.max(...cells.map((row) => row[i]?.length ?? 0)));
  const fixed = widths.slice(0, -1).reduce((sum, width) => sum + width + GAP.length, 0);
  const rest = Math.max(NARROWEST, columns - fixed);
  return cells
    .flatMap((row) => {
      const [first = '', ...more] = wrap(row.at(-1) ?? '', rest);
      const start = row.slice(0, -1).map((cell, i) => cell.padEnd(widths[i] ?? 0) + GAP);
      const line = (start.join('') + first).trimEnd();
      return [line, ...more.map((text) => ' '.repeat(fixed) + text)];
    })
    .join('\n');
}

/** Breaks between words; a word longer than the width stays whole. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
