/** Finds the known word that a mistyped one most resembles, for the fix that an error proposes. */

/** Undefined when nothing is close: further than a third of the known word, and further than two edits. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const scored = known.map((key) => ({ key, distance: editDistance(word.slice(0, 64), key) }));
  const best = scored.toSorted((a, b) => a.distance - b.distance)[0];
  return best !== undefined && best.distance <= Math.max(2, best.key.length / 3)
    ? best.key
    : undefined;
}

/** Levenshtein distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (const [i, x] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, y] of [...b].entries()) {
      const replaced = (row[j] ?? 0) + (x === y ? 0 : 1);
      next.push(Math.min(replaced, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
