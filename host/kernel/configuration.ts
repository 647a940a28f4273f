/**
 * The configuration of plugins: what administrators set, judged by the manifest's schema. Invariants: a
 * secret value is stored sealed and leaves to its plugin alone, never to a view, an error or a record;
 * what is stored fits the version that serves, or that version takes none: then it gets none, and what
 * another version was set to is kept for its return.
 */
import {
  compileSchema,
  type Json,
  type JsonSchema,
  type Manifest,
  NoaError,
  secretPointers,
} from '@noa/sdk/host';
import type { Audit } from './audit.ts';
import { promote } from './requests.ts';
import type { Seal } from './seal.ts';
import type { StoredConfiguration, StoreTx } from './store.ts';
import type { Supervisor } from './supervisor.ts';
import { noPlugin } from './views.ts';

/** Largest settings of a plugin in bytes of JSON. */
export const MAX_SETTINGS_BYTES = 64 << 10;
/** What stands for a secret value: in a view, that it is set; in a change, that it stays. */
const SET = { $secret: 'set' };

export interface ConfigurationView {
  readonly plugin: string;
  /** 0 while nothing is set. */
  readonly version: number;
  /** As they were set; a secret value is shown as `{"$secret": "set"}`. */
  readonly settings: Json;
  /** Of the version that settings are for; null when the plugin takes none. */
  readonly schema: JsonSchema | null;
  /** The version that waits to take over, with its schema; null when none does. */
  readonly candidate: { readonly version: string; readonly schema: JsonSchema | null } | null;
  /** ISO 8601; null while nothing is set. */
  readonly updatedAt: string | null;
}

/** The settings with the manifest's defaults, as the plugin gets them. Throws NoaError when they do not fit. */
export function configure(
  seal: Seal,
  manifest: Manifest,
  stored: StoredConfiguration | undefined,
): Json {
  if (manifest.config === undefined) return {};
  const config = stored === undefined ? {} : opened(seal, stored);
  const broken = brokenBy(manifest.config, config);
  if (broken === undefined) return config;
  const advice = `noa plugin config ${manifest.name}${step(manifest.config, config, broken)}`;
  throw new NoaError('INVALID_ARGUMENT', `its configuration: ${broken.text}; ${advice}`);
}

export interface ConfigurationOptions {
  readonly audit: Audit<StoreTx>;
  readonly supervisor: Supervisor;
  readonly seal: Seal;
  readonly now: () => number;
}

export class Configuration {
  readonly #options: ConfigurationOptions;

  constructor(options: ConfigurationOptions) {
    this.#options = options;
  }

  /** Throws NOT_FOUND. */
  view(plugin: string): ConfigurationView {
    const { plugins, versions, configurations } = this.#options.supervisor.snapshot;
    const record = plugins.find(({ name }) => name === plugin);
    if (record === undefined) throw noPlugin(plugin);
    const { manifest } = versions.find(({ digest }) => digest === record.active) ?? {};
    const waits = versions.find(({ digest }) => digest === record.candidate);
    const stored = configurations.find((each) => each.plugin === plugin);
    return {
      plugin,
      version: stored?.version ?? 0,
      settings: stored === undefined ? {} : replaced(stored, () => ({ ...SET })),
      schema: manifest?.config ?? null,
      candidate: waits ? { version: waits.version, schema: waits.manifest.config ?? null } : null,
      updatedAt: stored?.updatedAt ?? null,
    };
  }

  /** Plugins whose secret settings this host's root key does not open. */
  foreign(): string[] {
    const { supervisor, seal } = this.#options;
    return supervisor.snapshot.configurations
      .filter((stored) => stored.secrets.length > 0 && !seal.isOurs(stored))
      .map(({ plugin }) => plugin);
  }

  /**
   * Replaces the settings; running calls end with the old ones. A value `{"$secret": "set"}` keeps what is
   * set there. With `version` only when that is the present one. Settings that fit an upgrade which waits
   * let it take over. Throws NOT_FOUND, CONFLICT, PAYLOAD_TOO_LARGE, INVALID_ARGUMENT with the path.
   */
  async set(
    plugin: string,
    given: Json,
    version: number | undefined,
    actor: string,
  ): Promise<ConfigurationView> {
    if (Buffer.byteLength(JSON.stringify(given)) > MAX_SETTINGS_BYTES) {
      const text = `settings have more than ${MAX_SETTINGS_BYTES} bytes: keep large values in a blob`;
      throw new NoaError('PAYLOAD_TOO_LARGE', text);
    }
    const { audit, supervisor, seal, now } = this.#options;
    await audit.change(async (tx, note) => {
      const record = await tx.plugin(plugin);
      if (record === undefined) throw noPlugin(plugin);
      const stored = await tx.configuration(plugin);
      const present = stored?.version ?? 0;
      if (version !== undefined && version !== present) {
        const text = `version ${version} is not the present one, ${present}: read the settings again`;
        throw new NoaError('CONFLICT', text);
      }
      const old = stored && readable(seal, stored);
      const settings = keepSecrets(given, stored, old);
      const versions = await tx.versions(plugin);
      // A value that is secret to any version that may serve again is never stored open.
      const manifests = versions.map(({ manifest }) => manifest);
      const sealed = sealedOf(seal, plugin, present + 1, settings, manifests);
      await tx.putConfiguration({ ...sealed, updatedAt: new Date(now()).toISOString() });
      const unfit = ({ config }: Manifest) =>
        config && brokenBy(config, structuredClone(settings))?.text;
      await promote(tx, plugin, unfit);
      const moved = await tx.plugin(plugin);
      const [serves, waits] = [moved?.active, moved?.candidate].map(
        (wanted) => versions.find(({ digest }) => digest === wanted)?.manifest,
      );
      const takes = serves?.config ? serves : waits;
      const problem = isEmpty(settings) && !serves?.config ? undefined : refusal(takes, settings);
      if (problem !== undefined) throw new NoaError('INVALID_ARGUMENT', `settings: ${problem}`);
      const details = { version: present + 1, ...changed(old ?? {}, settings) };
      const none = { capability: null, operation: null, resources: [], code: null };
      note({ kind: 'plugin.configure', actor, plugin, ...none, outcome: 'ok', details });
    });
    await supervisor.sync(plugin);
    return this.view(plugin);
  }
}

/** Why the manifest does not accept what is stored, or undefined when it does. */
export function unfit(
  seal: Seal,
  manifest: Manifest,
  stored: StoredConfiguration | undefined,
): string | undefined {
  try {
    configure(seal, manifest, stored);
    return undefined;
  } catch (error) {
    if (error instanceof NoaError) return error.message;
    throw error;
  }
}

/** Why settings cannot be set for the version that takes them. */
function refusal(takes: Manifest | undefined, settings: Json): string | undefined {
  if (takes?.config === undefined) return 'the plugin takes none: its manifest has no config';
  return brokenBy(takes.config, structuredClone(settings))?.text;
}

interface Broken {
  /** JSON Pointer of what is wrong. */
  readonly path: string;
  readonly text: string;
}

/** The first thing in the settings that the schema does not accept. Fills in defaults. */
function brokenBy(config: JsonSchema, settings: Json): Broken | undefined {
  const [broken] = compileSchema(config, { defaults: true })(settings);
  if (broken === undefined) return undefined;
  const { path, message } = broken;
  const known = message === UNKNOWN && stepsOf(path).length === 1 ? knownKeys(config) : '';
  return { path, text: `${path || '/'} ${message}${known}` };
}

/** As the schema compiler says it of a key. */
const UNKNOWN = 'is not a known key';
/** Names of keys that a message lists. */
const MAX_NAMED = 20;

function knownKeys({ properties }: JsonSchema): string {
  const names = Object.keys(properties ?? {});
  if (names.length === 0) return '; it takes no key';
  const more = names.length > MAX_NAMED ? ', …' : '';
  return `; it takes ${names.slice(0, MAX_NAMED).join(', ')}${more}`;
}

/** The rest of the command that mends what is broken; nothing where that is not one key. */
function step(config: JsonSchema, settings: Json, { path, text }: Broken): string {
  const [key = '', ...deeper] = stepsOf(path);
  if (!/^[\w.-]+$/.test(key) || deeper.length > 0) return '';
  if (text.includes(UNKNOWN)) return ` unset ${key}`;
  const tried = { ...(isObject(settings) ? settings : {}), [key]: '' };
  const secret = secretPointers(config, tried).some((pointer) => pointer === `/${key}`);
  return ` set ${key}=${secret ? '-' : 'VALUE'}`;
}

/** Takes the secret values out of the settings and seals them. */
function sealedOf(
  seal: Seal,
  plugin: string,
  version: number,
  settings: Json,
  manifests: readonly Manifest[],
): Omit<StoredConfiguration, 'updatedAt'> {
  const all = manifests.flatMap(({ config }) => (config ? secretPointers(config, settings) : []));
  const secrets = [...new Set(all)].filter(
    (pointer) => !all.some((other) => pointer.startsWith(`${other}/`)),
  );
  const values = secrets.map((pointer) => valueAt(settings, pointer) ?? null);
  const sealed = seal.close(
    ['noa/configuration', plugin, version, ...secrets],
    JSON.stringify(values),
  );
  const open = replaced({ settings, secrets }, () => null);
  return { plugin, version, settings: open, secrets, ...sealed };
}

function opened(seal: Seal, stored: StoredConfiguration): Json {
  const { plugin, version, secrets } = stored;
  if (secrets.length === 0) return structuredClone(stored.settings);
  if (!seal.isOurs(stored)) {
    const text = `the configuration of ${plugin} was sealed under another root key: give this host that auth.root_key, or set it again`;
    throw new NoaError('INTERNAL', text);
  }
  try {
    const text = seal.open(['noa/configuration', plugin, version, ...secrets], stored);
    const values = JSON.parse(text) as Json[];
    return replaced(stored, (index) => values[index] ?? null);
  } catch (cause) {
    const text = `the configuration of ${plugin} was changed in the database by another hand: set it again`;
    throw new NoaError('INTERNAL', text, { cause });
  }
}

/** The present settings, or undefined where they can only be set anew. */
function readable(seal: Seal, stored: StoredConfiguration): Json | undefined {
  try {
    return opened(seal, stored);
  } catch (error) {
    if (error instanceof NoaError) return undefined;
    throw error;
  }
}

/** A copy of the settings with other values where the secret ones are. */
function replaced(
  { settings, secrets }: Pick<StoredConfiguration, 'settings' | 'secrets'>,
  value: (index: number) => Json,
): Json {
  const root = { settings: structuredClone(settings) };
  for (const [index, pointer] of secrets.entries()) {
    const steps = ['settings', ...stepsOf(pointer)];
    const last = steps.pop() ?? '';
    const holder = steps.reduce<Json | undefined>(member, root);
    if (typeof holder === 'object') Object.assign(holder ?? {}, { [last]: value(index) });
  }
  return root.settings;
}

/** The given settings with each `{"$secret": "set"}` turned into what is set there. */
function keepSecrets(
  given: Json,
  stored: StoredConfiguration | undefined,
  old: Json | undefined,
): Json {
  const visit = (value: Json, at: string): Json => {
    if (typeof value !== 'object' || value === null) return value;
    if (!Array.isArray(value) && Object.hasOwn(value, '$secret')) {
      const kept = old !== undefined && stored?.secrets.includes(at) ? valueAt(old, at) : undefined;
      if (kept !== undefined && JSON.stringify(value) === JSON.stringify(SET)) return kept;
      const text = `settings: ${at || '/'} has no secret value that could be kept: give the value itself`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    const entries = Object.entries(value).map(([key, inner]) => {
      const token = key.replaceAll('~', '~0').replaceAll('/', '~1');
      return [key, visit(inner, `${at}/${token}`)] as const;
    });
    return Array.isArray(value) ? entries.map(([, inner]) => inner) : Object.fromEntries(entries);
  };
  return visit(given, '');
}

/** Names of the settings that a change sets or removes: what a record may tell. */
function changed(old: Json, settings: Json): { set: string[]; removed: string[] } {
  const [before, after] = [old, settings].map((value) => (isObject(value) ? value : {}));
  const differs = (key: string) => JSON.stringify(before?.[key]) !== JSON.stringify(after?.[key]);
  return {
    set: Object.keys(after ?? {}).filter(differs),
    removed: Object.keys(before ?? {}).filter((key) => !Object.hasOwn(after ?? {}, key)),
  };
}

function valueAt(root: Json, pointer: string): Json | undefined {
  return stepsOf(pointer).reduce<Json | undefined>(member, root);
}

function member(value: Json | undefined, step: string): Json | undefined {
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, step)) return undefined;
  return (value as { [key: string]: Json })[step];
}

/** The steps of a JSON Pointer (RFC 6901). */
function stepsOf(pointer: string): string[] {
  return pointer
    .split('/')
    .slice(1)
    .map((token) => token.replaceAll('~1', '/').replaceAll('~0', '~'));
}

function isEmpty(value: Json): boolean {
  return isObject(value) && Object.keys(value).length === 0;
}

function isObject(value: Json): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
