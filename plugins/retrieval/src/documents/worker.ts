/** Entry of the thread in which one document is parsed; whoever started it ends it when it takes too much. */
import { parentPort, workerData } from 'node:worker_threads';
import { textOf } from './document.ts';
import { parseHtml } from './html.ts';
import { parsePdf } from './pdf.ts';
import { READ_HERE } from './plain.ts';
import { NoaError } from '@noa/sdk';

const { bytes, mediaType } = workerData as { bytes: Uint8Array; mediaType: string };

try {
  const read = READ_HERE[mediaType] ?? parseHtml;
  const document = mediaType === 'application/pdf' ? await parsePdf(bytes) : read(textOf(bytes));
  parentPort?.postMessage({ document });
} catch (error) {
  const isOwn = error instanceof NoaError;
  parentPort?.postMessage({ words: isOwn ? error.message : 'the document cannot be read', isOwn });
}
