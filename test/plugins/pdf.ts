/** PDF files for tests, written by hand (ISO 32000-1): each page shows its lines. */
import { deflateSync } from 'node:zlib';

/** A page that draws a form ten times, which draws another ten times, so many levels deep. */
export function pdfBomb(levels: number): Buffer {
  const streamOf = (head: string, content: string) =>
    `<< ${head} /Length ${content.length} >>\nstream\n${content}\nendstream`;
  const objects = [
    '<< /Type /Catalog /Pages 2 0 R >>',
    '<< /Type /Pages /Kids [4 0 R] /Count 1 >>',
    '<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>',
    '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 5 0 R /Resources << /XObject << /X 6 0 R >> >> >>',
    streamOf('', '/X Do '.repeat(10)),
  ];
  for (let level = 0; level < levels; level += 1) {
    const isLast = level === levels - 1;
    const resources = isLast ? '/Font << /F1 3 0 R >>' : `/XObject << /X ${7 + level} 0 R >>`;
    const content = isLast ? 'BT /F1 9 Tf (boom) Tj ET' : '/X Do '.repeat(10);
    const form = '/Type /XObject /Subtype /Form /BBox [0 0 9 9]';
    objects.push(streamOf(`${form} /Resources << ${resources} >>`, content));
  }
  return fileOf(objects, '');
}

export function pdfOf(pages: readonly (readonly string[])[], title?: string): Buffer {
  const objects: (string | Buffer)[] = [];
  const add = (body: string | Buffer): number => objects.push(body);
  const kids: string[] = [];
  add('<< /Type /Catalog /Pages 2 0 R >>');
  add(''); // the pages, when they are known
  add('<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>');
  const info = add(`<< /Title (${title ?? ''}) >>`);
  for (const lines of pages) {
    const shown = lines.map((line) => `(${line.replaceAll(/[\\()]/g, '\\$&')}) Tj 0 -14 Td`);
    const content = deflateSync(Buffer.from(`BT /F1 12 Tf 72 720 Td ${shown.join(' ')} ET`));
    const head = Buffer.from(`<< /Length ${content.length} /Filter /FlateDecode >>\nstream\n`);
    const stream = add(Buffer.concat([head, content, Buffer.from('\nendstream')]));
    const page = add(
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents ${stream} 0 R /Resources << /Font << /F1 3 0 R >> >> >>`,
    );
    kids.push(`${page} 0 R`);
  }
  objects[1] = `<< /Type /Pages /Kids [${kids.join(' ')}] /Count ${kids.length} >>`;
  return fileOf(objects, `/Info ${info} 0 R`);
}

/** One page with such a content stream, which is packed by so many rounds of Flate; `more` is of the trailer. */
export function pdfPage(
  content: Buffer,
  { rounds = 1, font = '', more = '', objects = [] as readonly string[] } = {},
): Buffer {
  let packed = content;
  for (let round = 0; round < rounds; round += 1) packed = deflateSync(packed);
  const filters = '/FlateDecode '.repeat(rounds);
  const head = `<< /Length ${packed.length} /Filter [${filters}] >>\nstream\n`;
  const stream = Buffer.concat([Buffer.from(head), packed, Buffer.from('\nendstream')]);
  return fileOf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [4 0 R] /Count 1 >>',
      `<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica ${font} >>`,
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 3 0 R >> >> >>',
      stream,
      ...objects,
    ],
    more,
  );
}

function fileOf(objects: readonly (string | Buffer)[], more: string): Buffer {
  const parts: Buffer[] = [Buffer.from('%PDF-1.4\n')];
  const offsets: number[] = [];
  let at = parts[0]?.length ?? 0;
  for (const [i, body] of objects.entries()) {
    offsets.push(at);
    const part = Buffer.concat([
      Buffer.from(`${i + 1} 0 obj\n`),
      Buffer.from(body),
      Buffer.from('\nendobj\n'),
    ]);
    parts.push(part);
    at += part.length;
  }
  const rows = offsets.map((offset) => `${String(offset).padStart(10, '0')} 00000 n \n`).join('');
  const size = objects.length + 1;
  const table = `xref\n0 ${size}\n0000000000 65535 f \n${rows}`;
  const end = `trailer << /Size ${size} /Root 1 0 R ${more} >>\nstartxref\n${at}\n%%EOF\n`;
  return Buffer.concat([...parts, Buffer.from(table + end)]);
}
