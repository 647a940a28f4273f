/** What is written down is what is there. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ERROR_KINDS } from '@noa/sdk/host';
import t from 'tap';
import { capabilitiesReference } from '../host/builtin.ts';
import { startFront } from './transports/front.ts';

const read = (name: string) => readFileSync(join(import.meta.dirname, '..', name), 'utf8');

t.test('the capability reference is what the operation tables make', (t) => {
  t.equal(read('capabilities/README.md'), capabilitiesReference(), 'run: node .ci/references.ts');
  t.end();
});

t.test('every error code is documented with its status, and no other', (t) => {
  const rows = [
    ...read('host/transports/README.md').matchAll(/^\| `([A-Z_]+)` +\| (\d+) +\|(.*)\|$/gm),
  ];
  const documented = Object.fromEntries(
    rows.map(([, code = '', status]) => [code, Number(status)]),
  );
  const expected = Object.entries(ERROR_KINDS).map(([code, { status }]) => [code, status] as const);
  t.strictSame(documented, Object.fromEntries(expected));
  for (const [, code = '', , notes = ''] of rows) {
    const kind = ERROR_KINDS[code as keyof typeof ERROR_KINDS];
    t.equal(notes.includes('retry'), kind.retryable, `${code} says whether a retry may help`);
  }
  t.end();
});

t.test('every path that the host mounts is documented', async (t) => {
  const documented = read('host/transports/README.md');
  const front = await startFront();
  t.teardown(() => front.close());
  const paths = new Set(front.server.routes.map(({ url }) => url));
  t.ok(paths.size >= 20, 'the paths were collected');
  for (const path of paths) t.ok(documented.includes(path), path);
});
