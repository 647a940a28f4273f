/** The driver of `secrets`: hands out what the host's own state holds. Nothing is kept or logged here. */
import { type Driver, NoaError } from '@noa/sdk/host';

/** `read` answers the value of a secret, or undefined when none of this name is set. */
export function createSecretsDriver(read: (name: string) => Promise<string | undefined>): Driver {
  return {
    async invoke(operation, input) {
      const name =
        typeof input === 'object' && input !== null && 'name' in input ? input.name : undefined;
      if (operation !== 'read' || typeof name !== 'string') {
        throw new NoaError('INVALID_ARGUMENT', 'secrets: the one operation is read {name}');
      }
      const value = await read(name);
      if (value !== undefined) return { value };
      throw new NoaError(
        'NOT_FOUND',
        `secrets: ${JSON.stringify(name)} is not set; an administrator sets it: noa secret set ${name}`,
      );
    },
    async check() {},
    async close() {},
  };
}
