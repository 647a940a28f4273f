/**
 * Puts a guest's stack back into the lines of its source, where its module brings a source map. Runs in
 * the sandbox thread, inside the call that failed: the map is the guest's own and may be hostile.
 */

const SECTION = 'noa.sourcemap';
const MAX_MAP_BYTES = 8 << 20;

/** The error text with its `stack` mapped; the same text when there is nothing to map. */
export async function mapGuestStack(error: string, module: WebAssembly.Module): Promise<string> {
  const [map] = WebAssembly.Module.customSections(module, SECTION);
  if (map === undefined || map.byteLength > MAX_MAP_BYTES) return error;
  const body = parse(error);
  if (typeof body?.['stack'] !== 'string') return error;
  const { mapStack } = await import('@noa/sdk/host'); // Late: few threads ever need it.
  const stack = mapStack(body['stack'], new TextDecoder().decode(map));
  try {
    return JSON.stringify({ ...body, stack });
  } catch {
    return error; // Details that are nested too deeply to be written again; whoever reads them bounds them.
  }
}

function parse(error: string): { readonly [key: string]: unknown } | undefined {
  if (!error.startsWith('{')) return undefined;
  try {
    return JSON.parse(error) as { readonly [key: string]: unknown };
  } catch {
    return undefined; // Plain text that happens to begin with a brace.
  }
}
