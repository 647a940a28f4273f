/** The hosts that share one database, for administrators. */
import type { FastifyInstance } from 'fastify';
import type { Hosts, HostView } from '../kernel/hosts.ts';
import { object, oneOf, page, text, time } from './answer-schema.ts';
import { PAGE_QUERY, pageOf, type PageQuery } from './paging.ts';
import { resource } from './resource.ts';

const HOST = object<HostView>(
  {
    id: text('Of a host with several workers, each stands as `<id>-<number>`.'),
    version: text(),
    url: text('Where it listens, as it sees it.'),
    state: oneOf(['present', 'away'], 'Away: not seen for a minute.'),
    startedAt: time(),
    seenAt: time(),
  },
  { title: 'Host' },
);

export function registerHosts(scope: FastifyInstance, hosts: Hosts): void {
  resource(scope, '/v1/hosts', {
    GET: {
      summary: 'List the hosts that share the database',
      description: 'By id. One that was not seen for a day is forgotten.',
      tag: 'Hosts',
      scope: 'hosts:read',
      query: PAGE_QUERY,
      answers: { 200: page('hosts', HOST) },
      run: async (request) => {
        const all = await hosts.list();
        const { items, next } = pageOf(all, ({ id }) => id, request.query as PageQuery);
        return { hosts: items, next };
      },
    },
  });
}
