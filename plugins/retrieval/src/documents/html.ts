/** HTML, parsed as browsers do (parse5): what a reader would read, without scripts, styles and hidden parts. */
import { defaultTreeAdapter as tree, type DefaultTreeAdapterTypes, parse } from 'parse5';
import { type Block, newlines, type ParsedDocument, refused, Writer } from './document.ts';

type Element = DefaultTreeAdapterTypes.Element;
type Node = DefaultTreeAdapterTypes.ChildNode;

const LEFT_OUT: ReadonlySet<string> = new Set([
  'script',
  'style',
  'template',
  'noscript',
  'iframe',
  'object',
  'embed',
  'svg',
  'math',
  'head',
  'select',
  'textarea',
]);
const BLOCKS: ReadonlySet<string> = new Set([
  'address',
  'article',
  'aside',
  'blockquote',
  'body',
  'caption',
  'dd',
  'details',
  'dialog',
  'div',
  'dl',
  'dt',
  'fieldset',
  'figcaption',
  'figure',
  'footer',
  'form',
  'header',
  'hr',
  'html',
  'li',
  'main',
  'nav',
  'ol',
  'p',
  'section',
  'summary',
  'table',
  'td',
  'th',
  'tr',
  'ul',
]);
const HEADING = /^h([1-6])$/;
/** Taken whole: what is in them belongs together. But for code and headings, as where a table is the layout. */
const WHOLE: { readonly [tag: string]: Block['kind'] } = {
  pre: 'code',
  ul: 'list',
  ol: 'list',
  table: 'table',
};
const MAX_DEPTH = 512;

export function parseHtml(source: string): ParsedDocument {
  const writer = new Writer();
  const document = parse(source, { sourceCodeLocationInfo: true });
  const title = find(document.childNodes, 'title', 0);
  let open = '';
  let lines: { line: number; endLine: number } | undefined;
  const flush = (): void => {
    writer.block('paragraph', spaced(open), lines);
    open = '';
    lines = undefined;
  };
  const add = ({ value, sourceCodeLocation: at }: DefaultTreeAdapterTypes.TextNode): void => {
    open += value;
    if (!at || value.trim() === '') return;
    const leading = newlines(value.slice(0, value.length - value.trimStart().length));
    const endLine = at.endLine - newlines(value.slice(value.trimEnd().length));
    lines = { line: lines?.line ?? at.startLine + leading, endLine };
  };
  const walk = (nodes: readonly Node[], depth: number): void => {
    if (depth > MAX_DEPTH) throw refused(`is nested deeper than ${MAX_DEPTH} elements`);
    for (const node of nodes) {
      if (tree.isTextNode(node)) add(node);
      else if (tree.isElementNode(node)) visit(node, depth);
    }
  };
  const visit = (element: Element, depth: number): void => {
    const { tagName: tag } = element;
    if (LEFT_OUT.has(tag) || isHidden(element)) return;
    const level = HEADING.exec(tag)?.[1];
    const whole = WHOLE[tag];
    const isWhole = tag === 'pre' || (whole !== undefined && !holdsParts(element, depth));
    const kind = isWhole ? whole : undefined;
    if (level !== undefined || kind !== undefined) {
      flush();
      const text = contentOf(element, depth, tag === 'pre');
      const at = element.sourceCodeLocation;
      const origin = { ...(at && { line: at.startLine, endLine: at.endLine }) };
      writer.block(kind ?? 'heading', text, { ...origin, ...(level && { level: Number(level) }) });
    } else if (tag === 'br') {
      open += ' ';
    } else {
      const isBlock = BLOCKS.has(tag);
      if (isBlock) flush();
      walk(element.childNodes, depth + 1);
      if (isBlock) flush();
    }
  };
  walk(document.childNodes, 0);
  flush();
  const named = title === undefined ? '' : contentOf(title, 0, false);
  if (named !== '') writer.title = named;
  return writer.done();
}

/** The text in an element; items, rows and lines are lines of it. */
function contentOf(element: Element, depth: number, isRaw: boolean): string {
  let text = '';
  const walk = (nodes: readonly Node[], level: number): void => {
    if (level > MAX_DEPTH) throw refused(`is nested deeper than ${MAX_DEPTH} elements`);
    for (const node of nodes) {
      if (tree.isTextNode(node)) text += isRaw ? node.value : node.value.replaceAll(/\s+/g, ' ');
      else if (tree.isElementNode(node) && !LEFT_OUT.has(node.tagName) && !isHidden(node)) {
        const { tagName: tag } = node;
        if (tag === 'li' || tag === 'tr' || tag === 'br') text += '\n';
        else if (tag === 'td' || tag === 'th') text += ' | ';
        else if (!isRaw && BLOCKS.has(tag)) text += ' ';
        walk(node.childNodes, level + 1);
      }
    }
  };
  walk(element.childNodes, depth);
  if (isRaw) return text;
  const lines = text.split('\n').map((line) => spaced(line).replace(/^\| /, ''));
  return lines.filter((line) => line !== '').join('\n');
}

function holdsParts({ childNodes }: Element, depth: number): boolean {
  if (depth > MAX_DEPTH) return false;
  return childNodes.some(
    (node) =>
      tree.isElementNode(node) &&
      (node.tagName === 'pre' || HEADING.test(node.tagName) || holdsParts(node, depth + 1)),
  );
}

function find(nodes: readonly Node[], tag: string, depth: number): Element | undefined {
  for (const node of nodes) {
    if (!tree.isElementNode(node)) continue;
    if (node.tagName === tag) return node;
    // In html and head, and nowhere deeper.
    const found = depth < 2 ? find(node.childNodes, tag, depth + 1) : undefined;
    if (found !== undefined) return found;
  }
  return undefined;
}

function isHidden({ attrs }: Element): boolean {
  return attrs.some(
    ({ name, value }) =>
      name === 'hidden' ||
      (name === 'aria-hidden' && value === 'true') ||
      (name === 'style' && /display\s*:\s*none/i.test(value)),
  );
}

function spaced(text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim();
}
