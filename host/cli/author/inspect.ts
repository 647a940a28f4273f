/** What a plugin is and asks for, before anybody installs it: from its folder, its bundle or its module. */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { readPluginFolder } from '@noa/sdk/author';
import {
  type Bundle,
  type CapabilityRequest,
  effectiveLimits,
  type Manifest,
  NoaError,
  readBundle,
} from '@noa/sdk/host';
import { hookRequests } from '../../kernel/hooks.ts';
import { subscriptionRequests } from '../../kernel/subscriptions.ts';
import { scheduleTime } from '../plugin-text.ts';
import { ModuleError, type Outline, readOutline } from '../../loaders/wasm/binary.ts';

export interface ModuleReport {
  readonly bytes: number;
  readonly sha256: string;
  readonly exports: readonly string[];
  /** Of these, what could be called if the manifest named it; absent without a manifest. */
  readonly unnamed?: readonly string[];
  /** What it wants of the host: names by module. */
  readonly imports: { readonly [module: string]: readonly string[] };
}

export interface BundleReport {
  readonly manifest: Manifest;
  /** With what its event subscriptions and hooks ask for. */
  readonly requests: readonly CapabilityRequest[];
  readonly limits: ReturnType<typeof effectiveLimits>;
  /** Files with their sizes in bytes. */
  readonly files: { readonly [name: string]: number };
  /** Of the `.tgz`; absent for a folder. */
  readonly digest?: string;
}

export interface Report {
  readonly path: string;
  readonly module: ModuleReport;
  readonly bundle?: BundleReport;
}

/** Throws NoaError: NOT_FOUND, or what is wrong with the folder, bundle or module. */
export async function inspect(file: string): Promise<Report> {
  const info = await stat(file).catch((error: unknown) => {
    throw new NoaError('NOT_FOUND', `There is no ${file}.`, { cause: error });
  });
  if (info.isDirectory()) return bundleReport(file, await readPluginFolder(file));
  const bytes = await readFile(file);
  if (bytes.subarray(0, 4).equals(Buffer.from('\0asm'))) {
    return { path: file, module: moduleReport(bytes) };
  }
  const bundle = await readBundle(bytes);
  return bundleReport(file, bundle, sha256(bytes));
}

function bundleReport(file: string, { manifest, files }: Bundle, digest?: string): Report {
  const wasm = files.get(manifest.runtime.file ?? '') ?? new Uint8Array();
  const { capabilities = [] } = manifest;
  const sizes = [...files].map(([name, content]) => [name, content.length] as const);
  return {
    path: file,
    bundle: {
      manifest,
      requests: [
        ...capabilities,
        ...subscriptionRequests(manifest, capabilities),
        ...hookRequests(manifest, capabilities),
      ],
      limits: effectiveLimits(manifest),
      files: Object.fromEntries(sizes),
      ...(digest !== undefined && { digest }),
    },
    module:
      manifest.runtime.kind !== 'wasm'
        ? { bytes: wasm.length, sha256: sha256(wasm), exports: [], imports: {} }
        : moduleReport(wasm, manifest),
  };
}

/** Called by hosts and tools themselves, and so never named by a manifest. */
const CONVENTIONAL: ReadonlySet<string> = new Set(['_initialize', '_start']);

function moduleReport(bytes: Uint8Array, manifest?: Manifest): ModuleReport {
  let outline: Outline;
  try {
    outline = readOutline(bytes);
  } catch (error) {
    if (!(error instanceof ModuleError)) throw error;
    throw new NoaError('INVALID_ARGUMENT', error.message, { cause: error });
  }
  return {
    bytes: bytes.length,
    sha256: sha256(bytes),
    exports: [...outline.functions.keys()].toSorted(),
    ...(manifest !== undefined && { unnamed: unnamed(outline, manifest) }),
    imports: Object.fromEntries(
      [...Map.groupBy(outline.imports, ({ module }) => module)].map(([module, entries]) => [
        module,
        [...new Set(entries.map(({ name }) => name))].toSorted(),
      ]),
    ),
  };
}

function unnamed({ functions }: Outline, { exports }: Manifest): string[] {
  return [...functions]
    .filter(([name, signature]) => signature === '() -> i32' && !Object.hasOwn(exports, name))
    .map(([name]) => name)
    .filter((name) => !CONVENTIONAL.has(name))
    .toSorted();
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

const WITHOUT_SANDBOX: { readonly [kind: string]: string } = {
  native: "native     JavaScript without a sandbox, with all rights of the host's user",
  builtin: 'builtin    a part of the host: other hosts do not take it',
};

/** The report for people. Text of the plugin is shown without control characters. */
export function describe({ bundle, module }: Report): string {
  const lines: string[] = [];
  if (bundle !== undefined) lines.push(...describeBundle(bundle));
  const { kind = 'wasm' } = bundle?.manifest.runtime ?? {};
  lines.push(
    ...(kind === 'builtin' ? [] : [`module     ${size(module.bytes)}, sha256:${module.sha256}`]),
    WITHOUT_SANDBOX[kind] ?? `functions  ${module.exports.join(', ')}`,
    ...(module.unnamed?.length
      ? [`unnamed    ${module.unnamed.join(', ')}: add to exports what is to be called`]
      : []),
    ...section(
      'imports',
      Object.entries(module.imports).map(([from, names]) => [`  ${from}`, names.join(', ')]),
    ),
  );
  return plain(lines.join('\n'));
}

function describeBundle({ manifest, requests, limits, files, digest }: BundleReport): string[] {
  const { name, version, description, license, contributes, needs = [] } = manifest;
  const asked = requests.map(({ capability, operations, resources, optional, reason }) => [
    `  ${capability}${optional === true ? ' (optional)' : ''}`,
    operations.join(', '),
    resources.join(', '),
    reason,
  ]);
  const routes = (contributes?.routes ?? []).map(
    ({ method, path, export: target, status = 200 }) => [
      `  ${method}`,
      `/plugins/${name}${path}`,
      `${target}, ${status}`,
    ],
  );
  const grpc = (contributes?.grpc ?? []).map(({ method, export: target }) => [
    `  ${method}`,
    target,
  ]);
  const subscriptions = (contributes?.subscriptions ?? []).map(({ subject, export: target }) => [
    `  ${subject}`,
    target,
  ]);
  const schedules = (contributes?.schedules ?? []).map((schedule) => [
    `  ${schedule.name}`,
    scheduleTime(schedule),
    schedule.export,
  ]);
  const hooks = (contributes?.hooks ?? []).map((hook) => [
    `  ${hook.on}`,
    hook.operations.join(', '),
    `${hook.export}${hook.failOpen ? ', fails open' : ''}`,
  ]);
  const exports = Object.entries(manifest.exports).map(([id, { timeoutMs = limits.timeoutMs }]) => [
    `  ${id}`,
    `${timeoutMs} ms`,
  ]);
  return [
    `${name} ${version}${license === undefined ? '' : `, ${license}`}`,
    ...(description === undefined ? [] : [description]),
    ...(digest === undefined ? [] : [`bundle     sha256:${digest}`]),
    `limits     ${Object.entries(limits)
      .map(([key, value]) => `${key} ${value}`)
      .join(', ')}`,
    ...section(
      'needs',
      needs.map(({ plugin, version: range = '*' }) => [`  ${plugin}`, range]),
    ),
    ...section('requests', asked, 'asks for nothing'),
    ...section('routes', routes),
    ...section('grpc', grpc),
    ...section('subscriptions', subscriptions),
    ...section('schedules', schedules),
    ...section('hooks', hooks),
    ...section('exports', exports),
    ...section(
      'files',
      Object.entries(files).map(([file, bytes]) => [`  ${file}`, size(bytes)]),
    ),
  ];
}

function section(title: string, rows: readonly string[][], none?: string): string[] {
  if (rows.length === 0) return none === undefined ? [] : [title, `  ${none}`];
  return [title, ...table(rows)];
}

/** Rows with their columns aligned. */
function table(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

export function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1 << 20
    ? `${Math.round(bytes / 1024)} KiB`
    : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

function plain(text: string): string {
  return text.replace(/[^\P{C}\n]/gu, '�');
}
