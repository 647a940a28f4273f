/** PDF by PDF.js (unpdf): the text of each page. Run where it can be ended: a page may ask for any amount of work. */
import { getDocumentProxy } from 'unpdf';
import { MAX_TEXT, type ParsedDocument, refused, Writer } from './document.ts';

const MAX_PAGES = 2000;

/** Throws INVALID_ARGUMENT for a file that is damaged, encrypted, or has nothing to read. */
export async function parsePdf(bytes: Uint8Array): Promise<ParsedDocument> {
  const pdf = await getDocumentProxy(Uint8Array.from(bytes), {
    stopAtErrors: true,
    verbosity: 0,
  }).catch((error: unknown) => {
    const isLocked = error instanceof Error && error.name === 'PasswordException';
    throw refused(
      isLocked ? 'is an encrypted PDF: send it without a password' : 'is no PDF, or a damaged one',
    );
  });
  if (pdf.numPages > MAX_PAGES) {
    throw refused(`has ${pdf.numPages} pages, over ${MAX_PAGES}: send it in parts`);
  }
  const writer = new Writer();
  for (let number = 1; number <= pdf.numPages; number += 1) {
    const page = await pdf.getPage(number);
    const { items } = await page.getTextContent();
    let text = '';
    for (const item of items) {
      if (!('str' in item)) continue;
      text += item.str + (item.hasEOL ? '\n' : '');
      if (text.length > MAX_TEXT) throw refused(`has too much text on page ${number}`);
    }
    writer.page(number);
    for (const paragraph of text.split(/\n[ \t]*\n/)) writer.block('paragraph', joined(paragraph));
    page.cleanup();
  }
  const { info } = await pdf.getMetadata();
  const title: unknown = Reflect.get(info, 'Title');
  if (typeof title === 'string' && title.trim() !== '') writer.title = title;
  const parsed = writer.done();
  if (parsed.text === '') {
    throw refused('is a PDF without text, such as scanned pages: recognise its text first');
  }
  return parsed;
}

/** Lines of a paragraph as one text; a word that is divided at the end of a line is one again. */
function joined(paragraph: string): string {
  return paragraph.replaceAll(/(\p{Ll})-\n(\p{Ll})/gu, '$1$2').replaceAll(/\s+/g, ' ');
}
