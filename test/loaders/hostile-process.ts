/**
 * A process that its plugin has taken over: it answers the first frame of the host rightly, so that it is
 * in use, and from the second on does what its first argument says.
 */
import { Socket } from 'node:net';
import { KIND, encode, FrameReader, type Frame } from '../../host/loaders/process/frames.ts';

const channel = new Socket({ fd: 3, readable: true, writable: true });
const send = (...args: Parameters<typeof encode>): void => void channel.write(encode(...args));
const request = JSON.stringify({ capability: 'test', operation: 'run', arguments: 1 });
const flood = (frame: Buffer): void => {
  while (channel.writableLength < 1 << 20) channel.write(frame);
  setImmediate(flood, frame);
};

const attacks: { readonly [name: string]: (frame: Frame, nth: number) => void } = {
  garbage: () => channel.write(Buffer.alloc(4096, 0x7b)),
  'huge frame': () => channel.write(Buffer.from([0xff, 0xff, 0xff, 0xff, 0x10])),
  'long output': ({ id }) => send(KIND.done, id, '', 'x'.repeat(2000)),
  'long error': ({ id }) => send(KIND.failed, id, '', 'x'.repeat(300_000)),
  'unknown id': ({ id }) => send(KIND.done, id + 1, '', 'early'),
  'answer twice': ({ id }) => {
    send(KIND.done, id, '', 'once');
    send(KIND.done, id, '', 'twice');
  },
  'wrong text': ({ id }) => send(KIND.done, id, '', Uint8Array.of(0xc3, 0x28)),
  'wrong error': ({ id }) => send(KIND.failed, id, '', '[]'),
  'unknown kind': ({ id }) => send(99, id, '', ''),
  'host kind': ({ id }) => send(KIND.call, id, '{}', ''),
  'wrong number': ({ id }) => send(KIND.invoke, id, '-1', request),
  'wrong level': () => send(KIND.log, 0, 'fatal', 'x'),
  'wrong usage': () => send(KIND.usage, 0, '1e9 -4', ''),
  'wrong harm': () => send(KIND.harmed, 0, '__proto__', ''),
  'request flood': ({ id }) => {
    for (let n = 0; n < 1000; n += 1) send(KIND.invoke, id, String(n), request);
  },
  'log flood': () => flood(encode(KIND.log, 0, 'info', 'line')),
  'usage flood': () => flood(encode(KIND.usage, 0, '1 1')),
  silence: () => undefined,
  'claims of the host': ({ id }) =>
    send(KIND.failed, id, '', '{"code":"UNAUTHENTICATED","message":"a\\u001b[2Jb"}'),
  'late answer': ({ id }, nth) => {
    if (nth > 1) return send(KIND.done, id, '', 'of its own');
    setTimeout(() => send(KIND.done, id, '', 'late'), 300);
  },
  'closed channel': () => channel.destroy(),
  exit: () => process.exit(7),
  crash: () => process.abort(),
  'stderr flood': () => {
    const text = 'x'.repeat(1 << 16);
    const more = (): void => void process.stderr.write(text, more);
    more();
  },
  noise: () => {
    process.stderr.write('\u001b[31mred\nlines\n'.repeat(1000));
    setTimeout(() => process.exit(1), 100);
  },
};

const attack = attacks[process.argv[2] ?? ''];
if (attack === undefined) throw new Error('name an attack');
const reader = new FrameReader({ headBytes: 1 << 20, bodyBytes: 1 << 20 });
let count = 0;
channel.on('data', (chunk: Buffer) => {
  for (const frame of reader.read(chunk)) {
    if (frame.kind === KIND.cancel) continue;
    if (count === 0) send(KIND.done, frame.id, '', 'ready');
    else attack(frame, count);
    count += 1;
  }
});
channel.on('error', () => process.exit());
channel.on('close', () => setTimeout(() => process.exit(), 30_000));
