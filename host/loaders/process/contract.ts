/** What the host and the process of a plugin agree on: the heads of the frames, and their bounds. */
import type { Limits, Manifest } from '@noa/sdk/host';
import type { LoadRequest, RuntimeCall } from '../../kernel/loader.ts';
import type { WasmLoaderOptions } from '../wasm/loader.ts';
import type { FrameBounds } from './frames.ts';

/** The descriptor of the channel in the process. */
export const CHANNEL = 3;

/** The host is trusted; these only keep a mistake from becoming a large allocation. */
export const FROM_HOST: FrameBounds = { headBytes: 16 << 20, bodyBytes: 1 << 30 };

export const MIB: number = 1 << 20;
/** Bytes beside a request or a reply travel in it as base64; the sandbox in the process bounds each. */
export const UNFOLDED = 3;

/** The longest arguments of a capability request, as JSON. */
export function requestBytes({ maxRequestBytes = MIB }: WasmLoaderOptions): number {
  return UNFOLDED * maxRequestBytes;
}

export interface LoadHead {
  readonly options: WasmLoaderOptions;
  readonly request: Omit<LoadRequest, 'wasm' | 'log'>;
}

export interface InspectHead {
  readonly options: WasmLoaderOptions;
  readonly manifest: Manifest;
  readonly limits: Limits;
}

export type CallHead = Omit<RuntimeCall, 'input' | 'signal' | 'invoke' | 'spent'>;
