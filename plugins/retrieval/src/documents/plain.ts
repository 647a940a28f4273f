/** Plain text, and Markdown (CommonMark's blocks, as far as they tell where a text may be cut). */
import { newlines, type ParsedDocument, Writer } from './document.ts';

export function parsePlain(text: string): ParsedDocument {
  const writer = new Writer();
  let line = 1;
  // With what is between them, which counts.
  for (const [i, part] of text.split(/(\n[ \t]*\n)/).entries()) {
    if (i % 2 === 0) writer.block('paragraph', part, { line });
    line += newlines(part);
  }
  return writer.done();
}

// What follows backticks is code within a line when it has backticks too. Each of these is linear on any line.
const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})/;
const FENCE_END = /^ {0,3}(`{3,}|~{3,})[ \t]*$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const HEADING_END = /(?:^|[ \t])#+$/;
const UNDERLINE = /^ {0,3}(=+|-{2,})[ \t]*$/;
const ITEM = /^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]/;
const ROW = /^[ \t]*\|/;

export function parseMarkdown(source: string): ParsedDocument {
  const writer = new Writer();
  const body = withoutFrontMatter(source);
  const lines = body.split('\n');
  const first = 1 + newlines(source.slice(0, source.length - body.length));
  let open: string[] = [];
  /** `at` is where it ends. */
  const flush = (at: number): void => {
    const [head = ''] = open;
    const kind = ITEM.test(head) ? 'list' : ROW.test(head) ? 'table' : 'paragraph';
    const text = open.join('\n');
    // Cells are often filled up with spaces to stand below each other.
    const content = kind === 'table' ? text.replaceAll(/[ \t]{2,}|-{3,}/g, ' ') : text;
    writer.block(kind, content, { line: first + at - open.length });
    open = [];
  };
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at] ?? '';
    const fence = FENCE.exec(line)?.[1];
    const heading = HEADING.exec(line)?.[0];
    if (fence !== undefined) {
      flush(at);
      const from = at;
      do at += 1;
      while (at < lines.length && !closes(lines[at] ?? '', fence));
      writer.block('code', lines.slice(from, at + 1).join('\n'), { line: first + from });
    } else if (heading !== undefined) {
      flush(at);
      const title = line.slice(heading.length).trim().replace(HEADING_END, '');
      const level = heading.trimStart().length;
      writer.block('heading', plainOf(title), { level, line: first + at });
    } else if (open.length === 1 && UNDERLINE.test(line) && !ITEM.test(open[0] ?? '')) {
      const [title = ''] = open;
      open = [];
      const level = line.trim().startsWith('=') ? 1 : 2;
      writer.block('heading', plainOf(title), { level, line: first + at - 1 });
    } else if (line.trim() === '') {
      flush(at);
    } else {
      open.push(line);
    }
  }
  flush(lines.length);
  return writer.done();
}

function closes(line: string, fence: string): boolean {
  const own = FENCE_END.exec(line)?.[1];
  return own !== undefined && own[0] === fence[0] && own.length >= fence.length;
}

/** YAML before the first line, as many tools write it. */
function withoutFrontMatter(source: string): string {
  if (!source.startsWith('---\n')) return source;
  const end = source.indexOf('\n---\n', 3);
  return end < 0 ? source : source.slice(end + 5);
}

/** Without marks of emphasis, code and links. */
function plainOf(text: string): string {
  return text.replaceAll(/!?\[([^[\]]*)\]\([^()]*\)/g, '$1').replaceAll(/[*_`]/g, '');
}

/** By media type. */
export const READ_HERE: { readonly [mediaType: string]: (text: string) => ParsedDocument } = {
  'text/plain': parsePlain,
  'text/markdown': parseMarkdown,
};
