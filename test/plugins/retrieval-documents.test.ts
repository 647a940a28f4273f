/** What is read out of documents of each kind, and how those that are broken or hostile end. */
import fc from 'fast-check';
import t from 'tap';
import type { ParsedDocument } from '../../plugins/retrieval/src/documents/document.ts';
import { parse } from '../../plugins/retrieval/src/documents/parse.ts';
import { pdfBomb, pdfOf, pdfPage } from './pdf.ts';

t.setTimeout(120_000);

const MIB = 1 << 20;
const text = (content: string) => parse(Buffer.from(content), 'text/plain');
const markdown = (content: string) => parse(Buffer.from(content), 'text/markdown');
const html = (content: string) => parse(Buffer.from(content), 'text/html');
const pdf = (bytes: Uint8Array) => parse(bytes, 'application/pdf');

/** Each block as it reads, under its headings. */
const outline = ({ text: whole, blocks }: ParsedDocument) =>
  blocks.map(({ kind, start, end, headings }) => [
    kind,
    whole.slice(start, end),
    headings.join(' > '),
  ]);

const refusal = (words: RegExp) => ({ code: 'INVALID_ARGUMENT', message: words });

/** Longest time for which the thread of whoever asked did nothing else, in ms. */
async function blockedBy(work: () => Promise<unknown>): Promise<number> {
  let longest = 0;
  let last = performance.now();
  const tick = (): void => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  };
  const timer = setInterval(tick, 5);
  await work().finally(() => clearInterval(timer));
  tick();
  return longest;
}

t.test('text is paragraphs', async (t) => {
  const parsed = await text('\uFEFFOne\r\nline.\r\n \t\r\nTwo.\rOld line end.\n\n\n\n  Three. ');
  t.same(outline(parsed), [
    ['paragraph', 'One\nline.', ''],
    ['paragraph', 'Two.\nOld line end.', ''],
    ['paragraph', 'Three.', ''],
  ]);
  t.equal(parsed.title, undefined);
});

t.test('Markdown is blocks under the path of their headings', async (t) => {
  const parsed = await markdown(
    [
      '---\ntitle: not text\n---',
      '# Guide to *things* #\nIntro.',
      'Setup\n-----\n- one\n- two',
      '### On [Linux](https://example.org)\n1. first\n2. second',
      '```sh\n# no heading\n\n- no item\n``` not the end\n````',
      '## Use\n| a   | b |\n|-----|---|\n| 1   | 2 |',
      '#hashtag is text',
      '```one line``` of code is text',
      '~~~\nnever closed\n\n# no heading',
    ].join('\n\n'),
  );
  t.equal(parsed.title, 'Guide to things');
  t.same(outline(parsed), [
    ['heading', 'Guide to things', 'Guide to things'],
    ['paragraph', 'Intro.', 'Guide to things'],
    ['heading', 'Setup', 'Guide to things > Setup'],
    ['list', '- one\n- two', 'Guide to things > Setup'],
    ['heading', 'On Linux', 'Guide to things > Setup > On Linux'],
    ['list', '1. first\n2. second', 'Guide to things > Setup > On Linux'],
    [
      'code',
      '```sh\n# no heading\n\n- no item\n``` not the end\n````',
      'Guide to things > Setup > On Linux',
    ],
    ['heading', 'Use', 'Guide to things > Use'],
    ['table', '| a | b |\n| | |\n| 1 | 2 |', 'Guide to things > Use'],
    ['paragraph', '#hashtag is text', 'Guide to things > Use'],
    ['paragraph', '```one line``` of code is text', 'Guide to things > Use'],
    ['code', '~~~\nnever closed\n\n# no heading', 'Guide to things > Use'],
  ]);
});

t.test('HTML is what a reader would read', async (t) => {
  const parsed = await html(`<!doctype html><html><head><title> The &amp; title </title>
    <style>p { color: red }</style><script>let stolen = 1;</script></head><body>
    <!-- a comment --><h1>Top<br>line</h1><p>Caf&eacute;&nbsp;&lt;b&gt; &#x1F600;<script>alert(1)</script>
    <b>bold</b>ly</p><noscript>no script</noscript><template>a template</template>
    <p hidden>hidden</p><p style="display: none">not shown</p><i aria-hidden="true">icon</i>
    <svg><text>drawn</text></svg><h2>Part</h2>
    <ul><li><p>One</p><p>more</p></li><li>Two<ul><li>inner</li></ul></li></ul>
    <pre>  if (a &lt; b) {\n    go();\n  }</pre>
    <table><tr><th>k</th><th>v</th></tr><tr><td><div>1</div><div>one</div></td><td>2</td></tr></table>
    <h2>Steps</h2><ol><li>Run <pre>a  b</pre></li><li>Done.</li></ol>
    <table><tr><td><h3>Laid out</h3>by a table</td></tr></table></body></html>`);
  t.equal(parsed.title, 'The & title');
  t.same(outline(parsed), [
    ['heading', 'Top\nline', 'Top\nline'],
    ['paragraph', 'Café <b> 😀 boldly', 'Top\nline'],
    ['heading', 'Part', 'Top\nline > Part'],
    ['list', 'One more\nTwo\ninner', 'Top\nline > Part'],
    ['code', 'if (a < b) {\n    go();\n  }', 'Top\nline > Part'],
    ['table', 'k | v\n1 one | 2', 'Top\nline > Part'],
    ['heading', 'Steps', 'Top\nline > Steps'],
    ['paragraph', 'Run', 'Top\nline > Steps'],
    ['code', 'a  b', 'Top\nline > Steps'],
    ['paragraph', 'Done.', 'Top\nline > Steps'],
    ['heading', 'Laid out', 'Top\nline > Steps > Laid out'],
    ['paragraph', 'by a table', 'Top\nline > Steps > Laid out'],
  ]);
});

t.test('HTML tells the lines of its parts', async (t) => {
  const parsed = await html(`<!doctype html>
<body><h1>
  Top</h1>

  One
  <b>goes</b>
  on
<ul>
<li>a
<li>b
</ul>
<pre>c
d</pre>last`);
  t.same(
    parsed.blocks.map(({ start, end, lines }) => [
      parsed.text.slice(start, end),
      lines?.from,
      lines?.to,
    ]),
    [
      ['Top', 2, 3],
      ['One goes on', 5, 7],
      ['a\nb', 8, 11],
      ['c\nd', 12, 13],
      ['last', 13, 13],
    ],
  );
});

t.test('PDF is the text of its pages', async (t) => {
  const parsed = await pdf(
    pdfOf([['A word that is divi-', 'ded, and (more).'], [], ['The third page.']], 'Its title'),
  );
  t.equal(parsed.title, 'Its title');
  t.same(
    parsed.blocks.map(({ start, end, page }) => [page, parsed.text.slice(start, end)]),
    [
      [1, 'A word that is divided, and (more).'],
      [3, 'The third page.'],
    ],
  );
});

t.test('blocks tell their places in the text, in order, whatever is sent', async () => {
  const line = fc.constantFrom(
    ...'# A,## B,---,===,```,~~~~,- item,| a | b |,Text.,  ,\u0007,\r,#,```js'.split(','),
    ...'😀 more,<p>x,</p>,<ul><li>,<pre>,&amp;'.split(','),
  );
  const source = fc.array(fc.oneof(line, fc.string({ unit: 'grapheme' })), { maxLength: 30 });
  const check = ({ text: whole, blocks }: ParsedDocument): boolean => {
    let at = 0;
    for (const { start, end } of blocks) {
      if (start < at || end <= start || whole.slice(start, end).trim() !== whole.slice(start, end))
        return false;
      if (whole.slice(at, start).trim() !== '') return false;
      at = end;
    }
    // oxlint-disable-next-line no-control-regex -- they are what must not be there
    return at === whole.length && whole.isWellFormed() && !/[\0-\x08\x0B\x0E-\x1F]/.test(whole);
  };
  const kinds = async (content: string, takes: typeof text): Promise<boolean> =>
    takes(content).then(check, (error: { code?: string }) => error.code === 'INVALID_ARGUMENT');
  await fc.assert(
    fc.asyncProperty(source, async (lines) => {
      const content = lines.join('\n');
      return (await kinds(content, text)) && (await kinds(content, markdown));
    }),
    { numRuns: 500 },
  );
  // Each in a thread of its own.
  await fc.assert(
    fc.asyncProperty(source, (lines) => kinds(lines.join('\n'), html)),
    { numRuns: 12 },
  );
});

t.test('what no reader sees and no database takes is left out', async (t) => {
  const long = `${'x'.repeat(199)}😀😀`;
  const { title, blocks } = await markdown(`# ${long}\n\nUnder it.`);
  t.equal(title, 'x'.repeat(199), 'a long heading is cut between characters');
  t.same(blocks[1]?.headings, ['x'.repeat(199)]);
  const coloured = await text(`${'plain words '.repeat(5)}\u001B[31mred\u001B[0m`);
  t.match(coloured.text, /words \[31mred\[0m$/);
  // By the file's own map its letters stand for NUL, for half a character, and for C.
  const map = `/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <ff>
    endcodespacerange 3 beginbfchar <41> <0000> <42> <D800> <43> <0043> endbfchar endcmap end end`;
  const { text: shown } = await pdf(
    pdfPage(Buffer.from('BT /F1 12 Tf 1 1 Td (ACBCA) Tj ET'), {
      font: '/ToUnicode 6 0 R',
      objects: [`<< /Length ${map.length} >>\nstream\n${map}\nendstream`],
    }),
  );
  t.ok(shown.isWellFormed() && !shown.includes('\0') && shown.includes('C'), JSON.stringify(shown));
});

t.test('what is no text is refused in words', async (t) => {
  for (const type of ['text/plain', 'text/markdown', 'text/html', 'application/pdf']) {
    await t.rejects(parse(new Uint8Array(), type), refusal(/^the document is empty$/), type);
  }
  for (const take of ['text/plain', 'text/markdown', 'text/html']) {
    await t.rejects(parse(Buffer.from([0x63, 0x61, 0x66, 0xe9]), take), refusal(/not UTF-8/), take);
    await t.rejects(parse(Buffer.from('\uFEFFab', 'utf16le'), take), refusal(/not UTF-8/), take);
    await t.rejects(parse(Buffer.from('a\0b'), take), refusal(/holds NUL/), take);
  }
  const binary = Buffer.from(Array.from({ length: 4096 }, (_, i) => 1 + ((i * 7919) % 127)));
  await t.rejects(parse(binary, 'text/plain'), refusal(/control characters/));
  await t.rejects(
    parse(Buffer.from('x'), 'image/png'),
    refusal(/is image\/png, which is not read/),
  );
  await t.rejects(
    text('words and more \n'.repeat(600_000)),
    refusal(/more than 8388608 characters/),
  );
  t.same((await text(' \n\t\n ')).blocks, [], 'blank text has no blocks');
});

t.test('a hostile text takes its share of time and no more', async (t) => {
  const n = 400_000;
  const sources: { readonly [what: string]: string } = {
    brackets: `# ${'['.repeat(n)}`,
    links: `# ${'[]('.repeat(n)}`,
    images: `# ${'![a]('.repeat(n)}`,
    'spaces in a heading': `# a${' '.repeat(n)}b`,
    'marks after a heading': `# a${' #'.repeat(n)}b`,
    'spaces under a line': `a\n=${' '.repeat(n)}b`,
    fences: '```\n'.repeat(n),
    'a fence': `${'`'.repeat(n)}a\`\n`,
    headings: '###### a\n# b\n'.repeat(n / 10),
    'blank lines': `\n \t`.repeat(n),
    'one table': '|  --- '.repeat(n),
  };
  for (const [what, source] of Object.entries(sources)) {
    const before = process.cpuUsage();
    await markdown(source);
    const { user, system } = process.cpuUsage(before);
    // What is not linear takes minutes.
    t.ok(user + system < 10_000_000, `${what}: ${Math.round((user + system) / 1000)} ms`);
  }
});

t.test('hostile HTML is read, or refused, beside the host and within bounds', async (t) => {
  const deep = '<div>'.repeat(100_000);
  await t.rejects(html(deep), refusal(/nested deeper than 512/));
  await t.rejects(html(`<ul>${'<li><ul>'.repeat(5000)}x`), refusal(/nested deeper than 512/));
  const flood = await html('&amp;&#0;&#xD800;&#x110000;&lt;script&gt;'.repeat(50_000));
  t.ok(flood.text.isWellFormed() && !flood.text.includes('\0'));
  t.match(flood.text, /^&\uFFFD\uFFFD\uFFFD<script>&/);
  const attributes = Array.from({ length: 20_000 }, (_, i) => `a${i}="<p>"`).join(' ');
  t.equal((await html(`<p ${attributes}>Seen.`)).text, 'Seen.');
  const spaces = `<pre>a${' '.repeat(300_000)}b</pre>`;
  const blocked = await blockedBy(async () => t.ok((await html(spaces)).text.endsWith('b')));
  t.ok(blocked < 500, `the host waited for ${Math.round(blocked)} ms`);
});

t.test('a PDF that cannot be read tells why', async (t) => {
  const good = pdfOf([['Some words.']]);
  await t.rejects(
    pdf(Buffer.from('%PDF-1.7\nand nothing')),
    refusal(/is no PDF, or a damaged one/),
  );
  await t.rejects(pdf(Buffer.from('<p>HTML</p>')), refusal(/is no PDF, or a damaged one/));
  for (const part of [0.3, 0.6, 0.9]) {
    const cut = good.subarray(0, Math.floor(good.length * part));
    await t.rejects(pdf(cut), refusal(/is no PDF|cannot be read|without text/), `cut at ${part}`);
  }
  const words = Buffer.from('BT /F1 12 Tf 1 1 Td (Secret) Tj ET');
  const id = '<00112233445566778899aabbccddeeff>';
  const locks = `/O <${'ab'.repeat(32)}> /U <${'cd'.repeat(32)}>`;
  const more = `/ID [${id}${id}] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 ${locks} >>`;
  await t.rejects(pdf(pdfPage(words, { more })), refusal(/is an encrypted PDF/));
  await t.rejects(pdf(pdfOf([[], []])), refusal(/without text, such as scanned pages/));
  const many = Array.from({ length: 2001 }, () => []);
  await t.rejects(pdf(pdfOf(many)), refusal(/has 2001 pages, over 2000/));
});

t.test('damage anywhere in a PDF is refused or read, never anything else', async () => {
  const good = pdfOf([['Some words.', 'And more.'], ['A second page.']], 'Title');
  const bytes = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), {
    minLength: 1,
    maxLength: 40,
  });
  await fc.assert(
    fc.asyncProperty(bytes, async (changes) => {
      const damaged = Buffer.from(good);
      for (const [at, value] of changes) damaged[at] = value;
      return pdf(damaged).then(
        ({ text: read }) => read.isWellFormed(),
        ({ code }: { code?: string }) => code === 'INVALID_ARGUMENT',
      );
    }),
    { numRuns: 20 },
  );
});

t.test(
  'a PDF that unpacks without end is ended before it takes the memory of the host',
  async (t) => {
    const gibibyte = Buffer.alloc(1024 * MIB, 32);
    const small = pdfPage(gibibyte, { rounds: 2 });
    t.ok(small.length < 10_000, `${small.length} bytes for 1 GiB`);
    const before = process.memoryUsage().rss;
    let peak = before;
    const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage().rss)), 20);
    const ended = pdf(small).finally(() => clearInterval(timer));
    await t.rejects(ended, refusal(/takes too much memory to read/));
    t.ok(peak - before < 800 * MIB, `took ${Math.round((peak - before) / MIB)} MiB`);
  },
);

t.test('a PDF that is drawn without end is ended, and the others are read after it', async (t) => {
  const words = Buffer.from('(x) Tj '.repeat(30 * MIB));
  const endless = [pdfBomb(30), pdfPage(Buffer.concat([Buffer.from('BT /F1 9 Tf '), words]))];
  const blocked = await blockedBy(async () => {
    const ended = endless.map((bytes) =>
      t.rejects(pdf(bytes), refusal(/takes (more than 20 s|too much memory) to read/)),
    );
    t.equal((await pdf(pdfOf([['Waited.']]))).text, 'Waited.');
    await Promise.all(ended);
  });
  t.ok(blocked < 1000, `the host waited for ${Math.round(blocked)} ms`);
});

t.test('more documents than may wait are told to come back', async (t) => {
  const all = await Promise.allSettled(
    Array.from({ length: 24 }, (_, i) => html(`<p>Number ${i}.`)),
  );
  const read = all.flatMap((each) => (each.status === 'fulfilled' ? [each.value.text] : []));
  const refused = all.flatMap((each) =>
    each.status === 'rejected' ? [each.reason as unknown] : [],
  );
  t.same(
    read,
    Array.from({ length: 18 }, (_, i) => `Number ${i}.`),
  );
  t.equal(refused.length, 6);
  t.match(refused[0], { code: 'RESOURCE_EXHAUSTED', retryAfterMs: 5000 });
});
