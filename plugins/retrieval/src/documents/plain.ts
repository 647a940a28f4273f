/** Plain text, and Markdown (CommonMark's blocks, as far as they tell where a text may be cut). */
import { type ParsedDocument, Writer } from './document.ts';

export function parsePlain(text: string): ParsedDocument {
  const writer = new Writer();
  for (const paragraph of text.split(/\n[ \t]*\n/)) writer.block('paragraph', paragraph);
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
  const lines = withoutFrontMatter(source).split('\n');
  let open: string[] = [];
  const flush = (): void => {
    const [first = ''] = open;
    const kind = ITEM.test(first) ? 'list' : ROW.test(first) ? 'table' : 'paragraph';
    const text = open.join('\n');
    // Cells are often filled up with spaces to stand below each other.
    writer.block(kind, kind === 'table' ? text.replaceAll(/[ \t]{2,}|-{3,}/g, ' ') : text);
    open = [];
  };
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at] ?? '';
    const fence = FENCE.exec(line)?.[1];
    const heading = HEADING.exec(line)?.[0];
    if (fence !== undefined) {
      flush();
      const from = at;
      do at += 1;
      while (at < lines.length && !closes(lines[at] ?? '', fence));
      writer.block('code', lines.slice(from, at + 1).join('\n'));
    } else if (heading !== undefined) {
      flush();
      const title = line.slice(heading.length).trim().replace(HEADING_END, '');
      writer.block('heading', plainOf(title), heading.trimStart().length);
    } else if (open.length === 1 && UNDERLINE.test(line) && !ITEM.test(open[0] ?? '')) {
      const [title = ''] = open;
      open = [];
      writer.block('heading', plainOf(title), line.trim().startsWith('=') ? 1 : 2);
    } else if (line.trim() === '') {
      flush();
    } else {
      open.push(line);
    }
  }
  flush();
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
