/** What a terminal is shown, and asked. */
import { createInterface } from 'node:readline/promises';
import type { ProcessIo } from './io.ts';

/** All that moves the cursor, begins a sequence, ends a line or turns its direction, save \n and \t. */
const UNSEEN = /(?![\n\t])[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

/** Shows such characters as `\u001b`: in JSON that is the same text. */
export function visible(text: string): string {
  return text.replaceAll(
    UNSEEN,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** The answer of a person; undefined where nobody could give one. */
export async function ask(question: string, io: ProcessIo): Promise<string | undefined> {
  if (!('isTTY' in io.stdin) || io.stdin.isTTY !== true) return undefined;
  const prompt = createInterface({ input: io.stdin, output: io.stderr });
  try {
    return (await prompt.question(question)).trim().toLowerCase();
  } finally {
    prompt.close();
  }
}
