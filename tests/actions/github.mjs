// GitHub's own expressions and parser for runner.py: a JSON request a line in, an answer a line out.
import { register } from "node:module";
import { createInterface } from "node:readline";

// The parser imports JSON in the way that bundlers know; node wants it to be a module.
const hook = `
  import { readFile } from "node:fs/promises";
  export async function load(url, context, next) {
    if (!url.endsWith(".json")) return next(url, context);
    const source = "export default " + (await readFile(new URL(url), "utf8"));
    return { format: "module", source, shortCircuit: true };
  }`;
register("data:text/javascript," + encodeURIComponent(hook));

const { Evaluator, Lexer, Parser, data } = await import("@actions/expressions");
const { NoOperationTraceWriter, convertWorkflowTemplate, parseWorkflow } = await import(
  "@actions/workflow-parser"
);
const { parseAction, convertActionTemplate } = await import(
  "@actions/workflow-parser/actions/index"
);

const STATES = ["success", "failure", "cancelled", "always"];
const OPENING = "${{";

function statusFunctions(status) {
  const truth = { success: status === "success", failure: status === "failure" };
  const state = { ...truth, cancelled: status === "cancelled", always: true };
  return new Map(
    STATES.map((name) => [
      name,
      { name, minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(state[name]) },
    ]),
  );
}

function evaluated(expression, contexts, status) {
  const functions = statusFunctions(status);
  const { tokens } = new Lexer(expression).lex();
  const tree = new Parser(tokens, Object.keys(contexts), [...functions.values()]).parse();
  const known = JSON.parse(JSON.stringify(contexts), data.reviver);
  return new Evaluator(tree, known, functions).evaluate();
}

function asJson(value) {
  return JSON.parse(JSON.stringify(value, data.replacer));
}

// Where an expression ends: at the first }} outside of a string.
function closing(text, start) {
  let quoted = false;
  for (let at = start; at < text.length; at++) {
    if (text[at] === "'") quoted = !quoted;
    if (!quoted && text.startsWith("}}", at)) return at;
  }
  throw new Error(`no }} in ${text}`);
}

function filledText(text, contexts, status) {
  const pieces = [];
  let at = 0;
  for (let open; (open = text.indexOf(OPENING, at)) >= 0; ) {
    const end = closing(text, open);
    const value = evaluated(text.slice(open + OPENING.length, end), contexts, status);
    if (open === 0 && end + 2 === text.length) return asJson(value);
    pieces.push(text.slice(at, open), value.coerceString());
    at = end + 2;
  }
  return pieces.join("") + text.slice(at);
}

function filled(value, contexts, status) {
  if (typeof value === "string") return filledText(value, contexts, status);
  if (Array.isArray(value)) return value.map((each) => filled(each, contexts, status));
  if (value === null || typeof value !== "object") return value;
  const pairs = Object.entries(value);
  return Object.fromEntries(pairs.map(([key, each]) => [key, filled(each, contexts, status)]));
}

// A condition that names no status holds only where all before it succeeded.
function holds(condition, contexts, status) {
  const inner = /^\s*\$\{\{(.*)\}\}\s*$/s.exec(condition)?.[1] ?? condition;
  const names = new Lexer(inner).lex().tokens.map((token) => token.lexeme.toLowerCase());
  const said = STATES.some((name) => names.includes(name));
  const value = evaluated(said ? inner : `success() && (${inner})`, contexts, status);
  return ![false, 0, "", null].includes(asJson(value));
}

async function faults(kind, name, content) {
  const parse = kind === "action" ? parseAction : parseWorkflow;
  const { context, value } = parse({ name, content }, new NoOperationTraceWriter());
  if (value && kind === "action") convertActionTemplate(context, value);
  if (value && kind === "workflow") await convertWorkflowTemplate(context, value);
  return context.errors.getErrors().map((error) => error.message);
}

const answers = {
  fill: ({ value, contexts, status }) => filled(value, contexts, status),
  holds: ({ condition, contexts, status }) => holds(condition, contexts, status),
  faults: ({ kind, name, content }) => faults(kind, name, content),
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { value: await answers[request.ask](request) };
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
