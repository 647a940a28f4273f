/** Percent-encoding (WHATWG URL, section 1.3). A set is the printable ASCII in it; all else is in all. */
import { TextDecoder } from './encoding.ts';

export const SETS = {
  CONTROL: '',
  FRAGMENT: ' "<>`',
  QUERY: ' "#<>',
  SPECIAL_QUERY: ' "#<>\'',
  PATH: ' "#<>?^`{}',
  USERINFO: ' "#<>?^`{}/:;=@[\\]|',
  /** application/x-www-form-urlencoded leaves only letters, digits and `*-._`. */
  FORM: '!"#$%&\'()+,/:;<=>?@[\\]^`{|}~',
} as const;

export function percentEncode(text: string, set: string): string {
  let encoded = '';
  for (const character of text.toWellFormed()) {
    const plain = character > '\u{1f}' && character < '\u{7f}' && !set.includes(character);
    encoded += plain ? character : escape(character);
  }
  return encoded;
}

function escape(character: string): string {
  const escaped = encodeURIComponent(character);
  if (escaped !== character) return escaped;
  return `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
}

/** The bytes that are percent-encoded, and the text around them, as UTF-8. */
export function percentDecode(text: string): string {
  return text.replaceAll(/(?:%[0-9a-f]{2})+/gi, (run) => {
    const bytes = Uint8Array.from(run.slice(1).split('%'), (byte) => Number.parseInt(byte, 16));
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  });
}
