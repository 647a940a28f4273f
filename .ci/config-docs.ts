/** Writes the generated files of config/: run it after a change to host/config/keys.ts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultsFile, reference } from '../host/config/document.ts';

const folder = join(import.meta.dirname, '../config');
writeFileSync(join(folder, 'default.toml'), defaultsFile());
writeFileSync(join(folder, 'README.md'), reference());
