/**
 * The author's entry: `export default definePlugin<Plugin>({ … })`, with `Plugin` generated from
 * plugin.json into `src/noa.gen.ts`. The type argument alone connects the handlers with the manifest;
 * at run time this is an identity, and the build binds the definition to the engine.
 *
 * A generated file has this form:
 *
 *     import type { Cache, Db } from '@noa/sdk';
 *     export interface CreateInput { text: string }
 *     export interface CreateOutput { id: string; text: string }
 *     export interface Config { greeting?: string }
 *     export interface Plugin {
 *       exports: {
 *         create(input: CreateInput): CreateOutput;
 *         watch(input: WatchInput, emit: Emit): WatchOutput; // with `stream: true`
 *       };
 *       config: Config;
 *       capabilities: { db: Pick<Db, 'query' | 'execute'>; cache: Pick<Cache, 'get'> };
 *     }
 *
 * An export without an input schema takes `input: Json`, without an output schema it answers `unknown`;
 * a manifest without `config` or `capabilities` has `{}` there.
 */
import type { Capabilities, Clock, Log, Random } from '../ports.ts';

/** What a generated `Plugin` looks like. */
export interface PluginContract {
  exports: { [name: string]: (input: never, emit: never) => unknown };
  config: object;
  capabilities: { [Port in keyof Capabilities]?: Partial<Capabilities[Port]> };
}

/** The second argument of every handler: the declared ports, the configuration and what is always open. */
export type Context<Plugin extends PluginContract> = Plugin['capabilities'] & {
  /** Validated by the host against the manifest's schema; the same object in every call of an instance. */
  readonly config: Readonly<Plugin['config']>;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
};

/** With what a stream sends its values by: an export without `stream: true` has no `emit`. */
export type StreamContext<Plugin extends PluginContract, Emit> = Context<Plugin> & {
  readonly emit: Emit;
};

/**
 * One function per export of the manifest, sync or async. What it answers is sent as JSON (undefined
 * as null). A thrown `NoaError` reaches the caller with its code, anything else as PLUGIN_TRAP.
 *
 * The host runs many instances of a plugin, starts and ends them as it likes and uses one for many
 * calls: a variable outside the handlers is private to one instance and may be gone at the next call,
 * so it can memoize but never store. Keep state in `db` or `cache`.
 */
export type Handlers<Plugin extends PluginContract> = {
  readonly [Name in keyof Plugin['exports']]: (
    input: Parameters<Plugin['exports'][Name]>[0],
    context: Parameters<Plugin['exports'][Name]> extends [unknown, infer Emit]
      ? StreamContext<Plugin, Emit>
      : Context<Plugin>,
  ) => ReturnType<Plugin['exports'][Name]> | Promise<ReturnType<Plugin['exports'][Name]>>;
};

/** What `src/index.ts` exports as default. */
export interface PluginDefinition<Plugin extends PluginContract = PluginContract> {
  readonly handlers: Handlers<Plugin>;
}

export function definePlugin<Plugin extends PluginContract>(
  handlers: Handlers<Plugin>,
): PluginDefinition<Plugin> {
  return { handlers };
}
