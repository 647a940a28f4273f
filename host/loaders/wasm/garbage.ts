/**
 * Frees the linear memory of dropped instances. A thread without work allocates nothing, so its engine
 * sees no reason to collect, and hundreds of MiB may stay with a host that has long been idle.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

let collect: (() => void) | undefined;

export function collectGarbage(): void {
  if (collect === undefined) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
}
