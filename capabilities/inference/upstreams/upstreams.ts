/**
 * OpenAI-compatible servers as a backend of `inference`: models of other machines, as `group/model`. The
 * operator names the servers, so private addresses are as good as others; callers name a group alone.
 */
import { NoaError } from '@noa/sdk/host';
import type { Backend, BackendCall, ModelView } from '../backend.ts';
import type { Entry } from './catalogue.ts';
import { Group, type GroupOptions } from './group.ts';
import type { GroupSettings } from './settings.ts';

/** What other servers run has no version that this host could know. */
const VERSION = 'current';

/** No connection is opened before a call needs it. */
export function createUpstreams(
  settings: readonly GroupSettings[],
  options: GroupOptions,
): Backend {
  const groups = new Map(settings.map((each) => [each.name, new Group(each, options)]));

  const place = async (model: string): Promise<{ group: Group; entry: Entry } | undefined> => {
    const [name = '', ...rest] = model.split('/');
    const group = groups.get(name);
    const entry = await group?.catalogue.find(rest.join('/'));
    return group && entry && { group, entry };
  };
  const known = async (model: string): Promise<{ group: Group; entry: Entry }> => {
    const found = await place(model);
    if (found !== undefined) return found;
    throw new NoaError('NOT_FOUND', `inference: no upstream has the model ${model.slice(0, 128)}`);
  };

  return {
    async models() {
      const lists = await Promise.all(
        [...groups.values()].map(async (group) =>
          (await group.catalogue.entries()).map((entry) => view(group, entry)),
        ),
      );
      return lists.flat();
    },
    async find(model, version = VERSION) {
      const found = version === VERSION ? await place(model) : undefined;
      return found && view(found.group, found.entry);
    },
    async embed(request, call) {
      const { group, entry } = await known(request.model);
      return group.embed(entry, request, call);
    },
    async *generate(request, call: BackendCall) {
      const { group, entry } = await known(request.model);
      yield* group.generate(entry, request, call);
    },
    async rerank(request, call) {
      const { group, entry } = await known(request.model);
      return group.rerank(entry, request, call);
    },
    async check() {
      const now = Date.now();
      const all = [...groups.values()].flatMap(({ members }) => members);
      if (all.length > 0 && all.every((member) => member.restMs(now) > 0)) {
        throw new NoaError('UNAVAILABLE', 'inference: no upstream answers at this time');
      }
    },
    async close() {
      await Promise.all([...groups.values()].map((group) => group.close()));
    },
  };
}

function view({ settings }: Group, entry: Entry): ModelView {
  const now = Date.now();
  const members = [...entry.members.keys()];
  const reason = members.every((member) => member.restMs(now) > 0)
    ? members[0]?.last?.message
    : undefined;
  return {
    id: `${settings.name}/${entry.id}`,
    version: VERSION,
    task: entry.task,
    state: reason === undefined ? 'ready' : 'failed',
    backend: settings.name,
    ...(entry.description !== undefined && { description: entry.description }),
    ...(entry.dimensions !== undefined && { dimensions: entry.dimensions }),
    ...(entry.max_tokens !== undefined && { maxTokens: entry.max_tokens }),
    ...(entry.licence !== undefined && { licence: entry.licence }),
    ...(reason !== undefined && { reason }),
  };
}
