/** Writes the generated references: run it after a change to host/config/keys.ts or to an operation table. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { capabilitiesReference } from '../host/builtin.ts';
import { defaultsFile, reference } from '../host/config/document.ts';

const root = join(import.meta.dirname, '..');
writeFileSync(join(root, 'config/default.toml'), defaultsFile());
writeFileSync(join(root, 'config/README.md'), reference());
writeFileSync(join(root, 'capabilities/README.md'), capabilitiesReference());
