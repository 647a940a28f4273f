/** Makes text that a guest chose safe to show in a log, an error or a terminal. */

/** Controls, line and paragraph separators, and marks that reorder what is shown. */
const UNPRINTABLE = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;
const SHORT: { readonly [char: string]: string } = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** The text on one line, controls escaped, cut to `max` characters with the number left out. */
export function printable(text: string, max: number): string {
  const cut = text.length > max ? text.slice(0, max) : text;
  const clean = cut.replace(
    UNPRINTABLE,
    (char) => SHORT[char] ?? `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return cut === text ? clean : `${clean}… (${text.length - max} more characters)`;
}
