/** What is answered about grants, secrets, keys and the audit log, as JSON Schemas. */
import type { Difference, Explanation, Suggestion } from '../kernel/advice.ts';
import type { AuditRecord, Verification } from '../kernel/audit.ts';
import type { Grant } from '../kernel/grants.ts';
import type { LeastGrant } from '../kernel/least-grants.ts';
import type { SecretView } from '../kernel/store.ts';
import type { TokenKey } from '../kernel/key-ring.ts';
import {
  anything,
  count,
  flag,
  list,
  object,
  oneOf,
  orNull,
  page,
  sha256,
  text,
  time,
} from './answer-schema.ts';
import { GRANT_STATUS, OPERATIONS, RESOURCES } from './plugin-answers.ts';

export const GRANT_VIEW = object<Grant>(
  {
    id: text(),
    plugin: text(),
    capability: text(),
    operations: OPERATIONS,
    resources: RESOURCES,
    requested: orNull(
      object<NonNullable<Grant['requested']>>({ operations: OPERATIONS, resources: RESOURCES }),
    ),
    optional: flag('The plugin serves without it.'),
    reason: text(),
    status: GRANT_STATUS,
    createdAt: time(),
    decidedAt: orNull(time()),
    decidedBy: orNull(text('Subject of who decided.')),
  },
  { title: 'Grant' },
);

export const GRANTS = page('grants', GRANT_VIEW);

export const EXPLANATION = object<Explanation>(
  {
    plugin: text(),
    capability: text(),
    operation: text(),
    resource: text(),
    allowed: flag(),
    rule: oneOf(
      ['open', 'granted', 'unrequested', 'pending', 'revoked', 'narrowed'],
      'The rule that decides.',
    ),
    because: text(),
    grants: list(text('Id of a grant that decided.')),
    remedy: orNull(text('What would allow it; null when it is allowed.')),
  },
  { title: 'Explanation', optional: ['resource'] },
);

export const SUGGESTION = object<Suggestion>(
  {
    plugin: text(),
    records: count('Uses and denials that were looked at.'),
    since: orNull(time('Of the oldest of them.')),
    grants: list(
      object<LeastGrant>({
        grant: text(),
        capability: text(),
        operations: OPERATIONS,
        resources: RESOURCES,
        uses: count('How often the grant was used; 0 proposes to revoke it.'),
        least: object<LeastGrant['least']>({ operations: OPERATIONS, resources: RESOURCES }),
      }),
    ),
  },
  { title: 'Suggestion' },
);

const REACH = { capability: text(), operations: OPERATIONS, resources: RESOURCES };

export const DIFFERENCES = object<{ differences: Difference[] }>({
  differences: list(
    object<Difference>(
      {
        ...REACH,
        status: oneOf(['granted', 'narrowed', 'pending', 'revoked', 'unrequested']),
        optional: flag(),
        given: list(
          object<Difference['given'][number]>(REACH),
          'What approved grants give of the request.',
        ),
        grant: orNull(text('Id of the grant.')),
      },
      { title: 'GrantDifference' },
    ),
  ),
});

export const SECRET_VIEW = object<SecretView>(
  { name: text(), createdAt: time(), updatedAt: time() },
  { title: 'Secret' },
);

export const SECRETS = page('secrets', SECRET_VIEW);

export const TOKEN_KEY = object<TokenKey>(
  {
    kid: text(),
    createdAt: time(),
    retiredAt: orNull(time('Since then the key signs no more; null for the one that signs.')),
  },
  { title: 'TokenKey' },
);

export const TOKEN_KEYS = page('keys', TOKEN_KEY);

const CHAIN = {
  chain: text('The host whose chain this is.'),
  seq: count('Rises by one with every record of the chain.'),
};

const AUDIT_RECORD = object<AuditRecord>(
  {
    ...CHAIN,
    timestamp: time(),
    kind: text('`plugin.install`, `grant.approve`, `capability.use` …'),
    actor: text("Who did it: an administrator's subject, or `plugin:<name>`."),
    plugin: orNull(text()),
    capability: orNull(text()),
    operation: orNull(text()),
    resources: list(text()),
    outcome: oneOf(['ok', 'denied', 'failed']),
    code: orNull(text('Error code of what was denied or failed.')),
    details: anything(),
    prevHash: sha256('Hash of the record before, 64 zeros for the first.'),
    hash: sha256('SHA-256 of the canonical JSON of all other members.'),
  },
  { title: 'AuditRecord' },
);

export const AUDIT_PAGE = page('records', AUDIT_RECORD);

export const VERIFICATION = object<Verification>(
  {
    ok: flag(),
    records: count(),
    chains: list(
      object<Verification['chains'][number]>({ ...CHAIN, hash: sha256('Of its last record.') }),
    ),
    problem: text('The first thing found wrong.'),
  },
  { title: 'Verification', optional: ['problem'] },
);
