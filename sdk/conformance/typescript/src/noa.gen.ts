// Written by `noa plugin types` from plugin.json; changes are lost.
import type { BlobPort, Json, PluginPort } from '@noa/sdk';

export interface FailInput {
  code: string;
  message: string;
  details?: Json;
}

export interface CrashInput {
  message: string;
}

export interface CallInput {
  plugin: string;
  export: string;
  input: Json;
  catch?: boolean;
}

export interface BytesInput {
  length: number;
}

export interface EnvironmentInput {
  level: 'debug' | 'info' | 'warn' | 'error';
  message: string;
}

export interface Plugin {
  exports: {
    echo(input: Json): unknown;
    fail(input: FailInput): unknown;
    crash(input: CrashInput): unknown;
    call(input: CallInput): unknown;
    bytes(input: BytesInput): unknown;
    environment(input: EnvironmentInput): unknown;
  };
  config: {};
  capabilities: {
    blob: Pick<BlobPort, 'read' | 'readText' | 'write'>;
    plugin: Pick<PluginPort, 'call'>;
  };
}
