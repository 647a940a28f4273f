/** Compilers that a machine may lack: what needs one is skipped there, with the reason. */
import { NoaError } from '@noa/sdk/host';

/** Why what `find` looks for cannot be used here, or false. */
export async function missing(find: () => unknown): Promise<string | false> {
  try {
    await find();
    return false;
  } catch (error) {
    if (error instanceof NoaError && error.code === 'NOT_FOUND') return error.message;
    throw error;
  }
}
