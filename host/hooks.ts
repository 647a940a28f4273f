/** The hooks of plugins, for a process that serves. */
import type { Config } from './config.ts';
import { Hooks } from './gateway/hooks.ts';
import type { Kernel } from './kernel/kernel.ts';
import type { Metrics } from './telemetry/metrics.ts';

interface HooksParts {
  readonly kernel: Pick<Kernel, 'supervisor' | 'dispatcher'>;
  readonly config: Config['gateway'];
  readonly observe: Metrics['hook'];
  readonly log: { readonly warn: (about: object, message: string) => void };
}

export function openHooks({ kernel, config, observe, log }: HooksParts): Hooks {
  return new Hooks({
    snapshot: () => kernel.supervisor.snapshot,
    dispatch: (invocation) => kernel.dispatcher.dispatch(invocation),
    timeoutMs: config.hook_timeout_ms,
    now: Date.now,
    observe,
    onFailing: ({ plugin, on, export: name, failOpen }, reason) => {
      const what = failOpen || on === 'afterResponse' ? 'requests go on' : 'requests are refused';
      const text = reason === undefined ? 'works again' : `fails, and ${what} meanwhile: ${reason}`;
      log.warn({ plugin, on, export: name }, `the hook ${name} of plugin ${plugin} ${text}`);
    },
  });
}
