/** The driver of `random`: the system's cryptographic source (OpenSSL's CSPRNG). */
import { randomBytes } from 'node:crypto';
import { type Driver, NoaError } from '@noa/sdk/host';
import { MAX_LENGTH } from './capability.ts';

export function createRandomDriver(): Driver {
  return {
    async invoke(_operation, input) {
      const length =
        typeof input === 'object' && input !== null && !Array.isArray(input)
          ? input['length']
          : undefined;
      if (
        typeof length !== 'number' ||
        !Number.isInteger(length) ||
        length < 0 ||
        length > MAX_LENGTH
      ) {
        throw new NoaError(
          'INVALID_ARGUMENT',
          `random: length must be a whole number from 0 to ${MAX_LENGTH}`,
        );
      }
      return { base64: randomBytes(length).toString('base64') };
    },
    async check() {},
    async close() {},
  };
}
