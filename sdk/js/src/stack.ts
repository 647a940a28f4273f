/** Positions of a bundle, as a guest's stack has them, put back into the author's own files. */
import { originalPositionFor, type SourceMapInput, TraceMap } from '@jridgewell/trace-mapping';

export interface Frame {
  readonly name: string;
  readonly source: string;
  /** From 1, as `column`. */
  readonly line: number;
  readonly column: number;
}

const FRAME = /^\s*at (?:(.*?) \()?plugin\.js:(\d+):(\d+)\)?$/;

/** Extension field of the map (ECMA-426 reserves `x_`): names in the bundle to those in the sources. */
export const RENAMED = 'x_noa_renamed';

interface PluginMap {
  readonly trace: TraceMap;
  readonly renamed: { readonly [name: string]: string };
}

/**
 * Maps the stack of an error of a guest (`stack` in its body) by the module's `noa.sourcemap` section.
 * Frames without a place in the map, which are the SDK's own, are left out; lines that are no frames stay. Never throws: a stack or a
 * map that is not one gives the stack back as it is.
 */
export function mapStack(stack: string, mapJson: string): string {
  const map = parse(mapJson);
  if (map === undefined) return stack;
  return stack
    .split('\n')
    .flatMap((line) => {
      if (!/^\s*at /.test(line)) return [line];
      const frame = locate(line, map);
      if (frame === undefined) return [];
      const where = `${frame.source}:${frame.line}:${frame.column}`;
      return [frame.name === '' ? `    at ${where}` : `    at ${frame.name} (${where})`];
    })
    .join('\n');
}

/** The frames of a stack that lie in the plugin's own files, innermost first. */
export function mapFrames(stack: string, mapJson: string): Frame[] {
  const map = parse(mapJson);
  if (map === undefined) return [];
  return stack.split('\n').flatMap((line) => locate(line, map) ?? []);
}

function parse(mapJson: string): PluginMap | undefined {
  try {
    const map = JSON.parse(mapJson) as SourceMapInput & {
      readonly [RENAMED]?: PluginMap['renamed'];
    };
    return { trace: new TraceMap(map), renamed: map[RENAMED] ?? {} };
  } catch {
    return undefined;
  }
}

function locate(line: string, map: PluginMap): Frame | undefined {
  const match = FRAME.exec(line);
  if (match === null) return undefined;
  const position = originalPositionFor(map.trace, {
    line: Number(match[2]),
    column: Number(match[3]) - 1,
  });
  if (position.source === null) return undefined;
  const name = match[1] === '<anonymous>' ? '' : (match[1] ?? '');
  const original = Object.hasOwn(map.renamed, name) ? map.renamed[name] : undefined;
  return {
    name: original ?? name,
    source: position.source,
    line: position.line,
    column: position.column + 1,
  };
}
