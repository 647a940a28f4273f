/** `noa completion bash|zsh|fish`: scripts made from the tree of commands, so that they cannot lag behind. */
import { Argument, type Command } from 'commander';
import type { Session } from './session.ts';

interface Level {
  /** The commands that lead here: [] for `noa` itself. */
  readonly path: readonly string[];
  readonly commands: readonly { readonly name: string; readonly description: string }[];
  readonly options: readonly { readonly name: string; readonly description: string }[];
}

const SCRIPTS = { bash, zsh, fish };

export function registerCompletion(program: Command, session: Session): void {
  program
    .command('completion')
    .description('print a completion script: source <(noa completion bash)')
    .addArgument(new Argument('<shell>').choices(Object.keys(SCRIPTS)))
    .action((shell: keyof typeof SCRIPTS) => {
      const script = SCRIPTS[shell]([...levels(program, [])]);
      session.result({ shell, script }, script.trimEnd());
    });
}

function* levels(command: Command, path: readonly string[]): Generator<Level> {
  const help = command.createHelp();
  const commands = help.visibleCommands(command).map((sub) => ({
    name: sub.name(),
    description: sub.description(),
  }));
  const own = help.visibleOptions(command);
  const inherited = path.length === 0 ? [] : help.visibleGlobalOptions(command);
  const options = [...own, ...inherited].flatMap(({ long, description }) =>
    long == null ? [] : [{ name: long, description }],
  );
  yield { path, commands, options };
  for (const sub of command.commands) yield* levels(sub, [...path, sub.name()]);
}

function bash(all: readonly Level[]): string {
  const words = all.map(({ path, commands, options }) => {
    const names = [...commands, ...options].map(({ name }) => name).join(' ');
    return `    ${quote(path.join(' '))}) words=${quote(names)} ;;`;
  });
  const known = all.slice(1).map(({ path }) => quote(path.join(' ')));
  return `# completion of noa for bash
_noa() {
  local path= next words= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    next="\${path:+$path }\${COMP_WORDS[i]}"
    case "$next" in
      ${known.join(' | ')}) path="$next" ;;
    esac
  done
  case "$path" in
${words.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _noa noa
`;
}

/** zsh reads bash's form through its own compatibility layer. */
function zsh(all: readonly Level[]): string {
  return `autoload -Uz compinit bashcompinit
compinit
bashcompinit
${bash(all)}`;
}

function fish(all: readonly Level[]): string {
  const lines = all.flatMap(({ path, commands, options }) => {
    const seen = path.map((name) => `__fish_seen_subcommand_from ${name}`);
    const names = commands.map(({ name }) => name).join(' ');
    const here = [...seen, ...(names === '' ? [] : [`not __fish_seen_subcommand_from ${names}`])];
    const condition = quote(here.join('; and '));
    return [
      ...commands.map(
        ({ name, description }) =>
          `complete -c noa -f -n ${condition} -a ${name} -d ${quote(description)}`,
      ),
      ...options.map(
        ({ name, description }) =>
          `complete -c noa -n ${condition} -l ${name.slice(2)} -d ${quote(description)}`,
      ),
    ];
  });
  return `# completion of noa for fish\n${lines.join('\n')}\n`;
}

/** A word for a shell, in single quotes; what could end them is left out. */
function quote(text: string): string {
  return `'${text.replaceAll(/['\\]/g, '’')}'`;
}
