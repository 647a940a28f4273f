/** JSON text from outside: what is too deep or too much is told before it is parsed, and nothing else is. */
import fc from 'fast-check';
import t from 'tap';
import { JSON_BOUNDS, jsonExcess, parseJson } from '@noa/sdk/host';

const { depth, values } = JSON_BOUNDS;
const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels);
const list = (length: number, item: string) => `[${Array.from({ length }, () => item).join()}]`;

void t.test('depth and number of values are bounded, at any length of the text', (t) => {
  const pads = ['', ' '.repeat(1000), `"${'x'.repeat(values)}",`];
  for (const pad of pads) {
    t.equal(jsonExcess(`[${pad}${nested(depth - 1)}]`), undefined);
    t.match(jsonExcess(`[${pad}${nested(depth)}]`), /more than 128 levels/);
    t.match(jsonExcess(`{"a":${pad.replace(',', '') || '1'},"b":${nested(depth)}}`), /128 levels/);
  }
  t.equal(jsonExcess(list(values - 1, '1')), undefined);
  t.match(jsonExcess(list(values, '1')), /more than 200000 values/);
  t.match(jsonExcess(list(values / 2, '{"a":1}')), /more than 200000 values/);
  t.equal(jsonExcess(list(values / 4, '{"a":"[[,,{"}')), undefined);
  t.match(jsonExcess('['.repeat(1 << 20)), /levels/, 'also of what is no JSON');
  t.throws(() => parseJson(nested(depth + 1)), RangeError);
  t.throws(() => parseJson('[1,'), SyntaxError);
  t.throws(() => parseJson(`"${'x'.repeat(values)}`), SyntaxError);
  t.end();
});

void t.test('what is in strings counts for nothing, whatever is escaped in them', (t) => {
  const text = fc.string({
    unit: fc.constantFrom('\\', '"', '[', '{', ',', 'x', '\n', 'é'),
    maxLength: 400,
  });
  // Long enough that every text is looked at from end to end.
  const padding = 'y'.repeat(values);
  fc.assert(
    fc.property(fc.array(text, { maxLength: 8 }), (texts) => {
      const value = [padding, ...texts];
      t.equal(jsonExcess(JSON.stringify(value)), undefined);
      const deep = `[${JSON.stringify(value)},${nested(depth)}]`;
      t.match(jsonExcess(deep), /levels/);
      t.same(parseJson(JSON.stringify(value)), value);
    }),
    { numRuns: 50 },
  );
  t.end();
});

void t.test('any JSON within the bounds is read as it is', (t) => {
  fc.assert(
    fc.property(fc.json({ maxDepth: 20 }), (json) => {
      t.same(parseJson(json), JSON.parse(json));
    }),
  );
  t.end();
});

void t.test('the worst texts within the bounds are read in bounded time', (t) => {
  const objects = Array.from({ length: values / 2 - 1 }, (_, i) => `{"${i.toString(36)}":1}`);
  const members = Array.from({ length: values - 1 }, (_, i) => `"${i.toString(36)}":1`);
  for (const text of [`[${objects.join()}]`, `{${members.join()}}`, list(values / 2 - 1, '[]')]) {
    const started = performance.now();
    parseJson(text);
    const ms = performance.now() - started;
    t.ok(ms < 1000, `${text.slice(0, 20)}… in ${ms.toFixed(0)} ms`);
  }
  t.end();
});
