/** Capability `plugin`: call an export of another plugin, with the rights that both have. */
import { defineCapability, type Json, NoaError } from '@noa/sdk/host';

const NAME = '[a-z][a-z0-9]*(?:-[a-z0-9]+)*';
const EXPORT = '[A-Za-z][A-Za-z0-9_]*';
const PATTERN = new RegExp(`^${NAME}/(?:\\*|${EXPORT}\\*?)$`);

export interface PluginCall {
  plugin: string;
  export: string;
  input?: Json;
  budget?: { calls?: number; rows?: number; tokens?: number; bytes?: number; ms?: number };
}

const amount = { type: 'number', minimum: 0 } as const;

export const plugin = defineCapability({
  name: 'plugin',
  summary: 'Call an export of another plugin.',
  resource: 'plugin/export',
  operations: {
    call: {
      summary: 'Runs an export of another plugin with the rights that both plugins have.',
      input: {
        type: 'object',
        additionalProperties: false,
        required: ['plugin', 'export'],
        properties: {
          plugin: { type: 'string', maxLength: 48, description: 'Name of the plugin.' },
          export: { type: 'string', maxLength: 64, description: 'Name of its export.' },
          input: { description: 'Input of the export; null when absent.' },
          budget: {
            type: 'object',
            description: 'What the called plugin may spend at most in this call.',
            additionalProperties: false,
            properties: { calls: amount, rows: amount, tokens: amount, bytes: amount, ms: amount },
          },
        },
      },
      output: {
        type: 'object',
        required: ['output'],
        properties: { output: { description: 'What the export answered.' } },
      },
      idempotent: false,
      resources: (input: PluginCall) => [`${input.plugin}/${input.export}`],
    },
  },
  normalizeResource(pattern) {
    if (PATTERN.test(pattern)) return pattern;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${JSON.stringify(pattern.slice(0, 100))} names no export: write plugin/export or plugin/*`,
    );
  },
});
