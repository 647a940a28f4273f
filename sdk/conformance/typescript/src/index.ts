/** The conformance plugin (../../README.md) in TypeScript, on the ports that every author uses. */
import { NoaError, definePlugin } from '@noa/sdk';
import type { ErrorCode } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

export default definePlugin<Plugin>({
  echo: (input) => input,

  fail({ code, message, details }) {
    throw new NoaError(code as ErrorCode, message, { details });
  },

  crash({ message }) {
    throw new Error(message);
  },

  async call({ catch: caught, ...call }, { plugin }) {
    try {
      return { output: await plugin.call(call.plugin, call.export, call.input) };
    } catch (error) {
      if (caught !== true || !(error instanceof NoaError)) throw error;
      const { code, message, details } = error;
      return { error: { code, message, details } };
    }
  },

  async bytes({ length }, { blob }) {
    const made = Uint8Array.from({ length }, (_, index) => 31 * index + 7);
    const { size } = await blob.write('conformance', made);
    const read = await blob.read('conformance');
    return { size, length: read.length, hash: hash(read) };
  },

  environment({ level, message }, { config, log, clock, random }) {
    log[level](message);
    return { config, epochMs: clock.now(), random: [...random.bytes(16)] };
  },
});

/** FNV-1a, 32 bits. */
function hash(bytes: Uint8Array): number {
  let value = 2_166_136_261;
  for (const byte of bytes) value = Math.imul(value ^ byte, 16_777_619);
  return value >>> 0;
}
