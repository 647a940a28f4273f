/** An upstream that answers as the last message wishes: in pieces, as a whole, beyond belief, or without end. */
import { createServer, type ServerResponse } from 'node:http';

type Say = (delta: object, finish?: string | null) => void;
type Wish = (say: Say, end: End, closed: (then: () => void) => void) => void;
type End = (usage?: object) => void;

const call = (piece: object) => ({ tool_calls: [{ index: 1, ...piece }] });
/** What the upstream writes, by the last message. */
const WISHES: { readonly [wish: string]: Wish } = {
  reason: (say, end) => {
    say({ role: 'assistant', reasoning_content: 'let ' });
    say({ reasoning_content: 'me ' });
    say({ reasoning_content: 'think' });
    say({ content: '42' }, 'stop');
    end();
  },
  refuse: (say, end) => {
    say({ role: 'assistant', refusal: 'I can' });
    say({ refusal: 'not' }, 'stop');
    end();
  },
  tools: (say, end) => {
    say(call({ id: 'c1', type: 'function', function: { name: 'f', arguments: '' } }));
    say(call({ id: null, type: null, function: { name: null, arguments: '{"a"' } }));
    say(call({ id: '', function: { arguments: ':1}' } }), 'tool_calls');
    end();
  },
  astronomic: (say, end) => {
    say({ content: 'x' }, 'stop');
    end({ prompt_tokens: Number.MAX_SAFE_INTEGER, completion_tokens: Number.MAX_SAFE_INTEGER });
  },
  endless: (say, _end, closed) => {
    const more = setInterval(() => say({ content: 'word ' }), 20);
    closed(() => clearInterval(more));
  },
  long: (say) => {
    for (let i = 0; i < 100; i += 1) say({ content: 'word ' });
  },
};

function answer(wish: string, response: ServerResponse): void {
  if (wish === 'whole') {
    const tool_calls = [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } }];
    const message = { role: 'assistant', content: null, tool_calls };
    const choices = [{ index: 0, message, finish_reason: 'tool_calls' }];
    return void response.end(JSON.stringify({ choices }));
  }
  response.setHeader('content-type', 'text/event-stream');
  const send = (part: object) => response.write(`data: ${JSON.stringify(part)}\n\n`);
  WISHES[wish]?.(
    (delta, finish_reason = null) => send({ choices: [{ index: 0, delta, finish_reason }] }),
    (usage = { prompt_tokens: 3, completion_tokens: 2 }) => {
      send({ choices: [], usage });
      response.end('data: [DONE]\n\n');
    },
    (then) => response.on('close', then),
  );
}

export const hostileUpstream = createServer((request, response) => {
  response.setHeader('content-type', 'application/json');
  if (request.url === '/v1/models') {
    return void response.end(JSON.stringify({ object: 'list', data: [{ id: 'talker' }] }));
  }
  let text = '';
  request.setEncoding('utf8').on('data', (part: string) => (text += part));
  request.on('end', () => {
    const asked = JSON.parse(text) as { messages?: { content: string }[] };
    answer(asked.messages?.at(-1)?.content ?? '', response);
  });
  return undefined;
});
