/** Says in plain words how a guest ended without returning. The engine's own texts are not shown. */
import type { Instance } from './instance.ts';

/** Parts of V8's messages, which have no codes, with what they mean to an author. */
const TRAPS: readonly (readonly [part: string, words: string])[] = [
  ['unreachable', 'it executed "unreachable" (a panic or an abort)'],
  ['Maximum call stack', 'stack overflow (recursion too deep)'],
  ['memory access out of bounds', 'memory access out of bounds'],
  ['table index is out of bounds', 'table access out of bounds'],
  ['table access out of bounds', 'table access out of bounds'],
  ['element segment out of bounds', 'table access out of bounds'],
  ['data segment out of bounds', 'memory access out of bounds'],
  ['signature mismatch', 'a call through a table to a function of another type'],
  ['divide by zero', 'division by zero'],
  ['remainder by zero', 'division by zero'],
  ['divide result unrepresentable', 'integer overflow'],
  ['float unrepresentable', 'a float that no integer can hold'],
  ['null', 'a null reference was used'],
];

export function describeTrap(error: unknown, instance: Instance | undefined): string {
  if (error instanceof WebAssembly.Exception)
    return 'The plugin trapped: an exception was not caught.';
  const message = error instanceof Error ? error.message : '';
  const words =
    TRAPS.find(([part]) => message.includes(part))?.[1] ?? 'it was stopped by the engine';
  return `The plugin trapped: ${words}${atLimit(instance)}.`;
}

/** A failed `memory.grow` is no trap by itself: what guests do about it usually is. */
function atLimit(instance: Instance | undefined): string {
  if (instance === undefined) return '';
  const { memoryMiB } = instance.unit.spec.limits;
  const used = instance.memoryBytes / (1 << 20);
  if (used < memoryMiB * 0.9) return '';
  return `; it had used ${Math.floor(used)} of its ${memoryMiB} MiB of memory (limits.memoryMiB)`;
}
