// Drives servers with the official `openai` package from npm.
//
// Usage: node openai_client_check.mjs MODEL_URL PARROT_URL
// The first serves a random-weight model, of whose text nothing is expected but that the same
// request gives the same; the second (parrot_server, v3.2) says what the user says. Both have the
// key "secret". Exit code 0 if every check passed.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [modelUrl, parrotUrl] = process.argv.slice(2);
const connect = (url, apiKey = "secret") =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 60_000 });
const model = connect(modelUrl);
const parrot = connect(parrotUrl);

const prompt = { model: "tiny", prompt: "One, two,", max_tokens: 16, temperature: 0 };
const messages = [{ role: "user", content: "Hello!" }];
const chat = { model: "tiny", messages, max_tokens: 16, temperature: 0 };
const says = (content, fields = {}) =>
  parrot.chat.completions.create({
    model: "parrot",
    messages: [{ role: "user", content }],
    ...fields,
  });

const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  },
];
const dsml = "\uff5cDSML\uff5c";
const call =
  `\n\n<${dsml}function_calls>\n<${dsml}invoke name="weather">\n` +
  `<${dsml}parameter name="city" string="true">Paris "é"</${dsml}parameter>\n` +
  `</${dsml}invoke>\n</${dsml}function_calls>`;

const checks = {
  async models() {
    const listed = [];
    for await (const one of model.models.list()) listed.push(one.id);
    assert.deepEqual(listed, ["tiny"]);
    assert.equal((await model.models.retrieve("tiny")).object, "model");
    await assert.rejects(model.models.retrieve("none"), OpenAI.NotFoundError);
  },

  async completions() {
    const whole = await model.completions.create(prompt);
    assert.equal(whole.object, "text_completion");
    assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
    assert.equal((await model.completions.create({ ...prompt, n: 2, temperature: 1 })).choices.length, 2);
    const stream = await model.completions.create({
      ...prompt,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage;
    for await (const event of stream) {
      text += event.choices[0]?.text ?? "";
      usage = event.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].text);
    // What the first request has computed, the second finds in the prefix cache.
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  },

  async completionLogprobs() {
    const { logprobs } = (await model.completions.create({ ...prompt, logprobs: 2 })).choices[0];
    assert.ok(logprobs.tokens.length > 0);
    assert.equal(logprobs.tokens.length, logprobs.token_logprobs.length);
  },

  async chats() {
    const whole = await model.chat.completions.create(chat);
    assert.equal(whole.choices[0].message.role, "assistant");
    let text = "";
    let finish;
    const stream = await model.chat.completions.create({ ...chat, stream: true });
    for await (const event of stream) {
      text += event.choices[0].delta.content ?? "";
      finish = event.choices[0].finish_reason ?? finish;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(finish, whole.choices[0].finish_reason);
  },

  async chatLogprobs() {
    const answer = await says("abc", { logprobs: true, top_logprobs: 2 });
    const content = answer.choices[0].logprobs.content;
    assert.deepEqual(content.map((one) => one.token), ["a", "b", "c"]);
    assert.equal(content[0].top_logprobs.length, 2);
  },

  async stopsAndChoices() {
    const answer = await says("one two three", { stop: [" three"], n: 2 });
    assert.deepEqual(answer.choices.map((one) => one.message.content), ["one two", "one two"]);
    assert.equal((await says("abcdef", { max_completion_tokens: 3 })).choices[0].finish_reason, "length");
  },

  async toolCalls() {
    const choice = (await says(`Hm.${call}`, { tools })).choices[0];
    assert.equal(choice.finish_reason, "tool_calls");
    assert.equal(choice.message.content, "Hm.");
    assert.deepEqual(JSON.parse(choice.message.tool_calls[0].function.arguments), { city: 'Paris "é"' });
    const history = [
      { role: "user", content: "?" },
      choice.message,
      { role: "tool", tool_call_id: choice.message.tool_calls[0].id, content: "sunny" },
    ];
    const next = await says("", { tools, messages: history });
    assert.equal(next.choices[0].message.content, "sunny");
  },

  // The package joins a stream's deltas itself.
  async streamedToolCalls() {
    const stream = parrot.chat.completions.stream({
      model: "parrot",
      messages: [{ role: "user", content: `Hm.${call}` }],
      tools,
    });
    const message = (await stream.finalChatCompletion()).choices[0].message;
    assert.equal(message.content, "Hm.");
    assert.equal(message.tool_calls.length, 1);
    assert.match(message.tool_calls[0].id, /^call_/);
    assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: 'Paris "é"' });
  },

  async toolRunner() {
    // It calls our function and sends the result back, until the model has no more calls.
    const asked = [];
    const runner = parrot.chat.completions.runTools({
      model: "parrot",
      messages: [{ role: "user", content: call }],
      tools: [
        {
          type: "function",
          function: {
            ...tools[0].function,
            parse: JSON.parse,
            function: ({ city }) => {
              asked.push(city);
              return "sunny";
            },
          },
        },
      ],
    });
    assert.equal(await runner.finalContent(), "sunny");
    assert.deepEqual(asked, ['Paris "é"']);
  },

  async reasoning() {
    const fields = { chat_template_kwargs: { thinking: true } };
    const answer = await says("why?</think>so", fields);
    assert.equal(answer.choices[0].message.reasoning_content, "why?");
    assert.equal(answer.choices[0].message.content, "so");
    assert.equal(answer.usage.completion_tokens_details.reasoning_tokens, 12);
    let reasoning = "";
    for await (const event of await says("why?</think>so", { ...fields, stream: true })) {
      reasoning += event.choices[0].delta.reasoning_content ?? "";
    }
    assert.equal(reasoning, "why?");
  },

  async errors() {
    const refused = async (promise, kind, param) => {
      const error = await promise.then(
        () => assert.fail("expected an error"),
        (reason) => reason,
      );
      assert.ok(error instanceof kind, String(error));
      assert.equal(error.param ?? null, param);
      return error;
    };
    const bad = OpenAI.BadRequestError;
    await refused(model.completions.create({ ...prompt, top_p: 7 }), bad, "top_p");
    await refused(model.chat.completions.create({ ...chat, messages: [] }), bad, "messages");
    await refused(says("x", { tools: [{ type: "custom" }] }), bad, "tools[0].type");
    const missing = model.completions.create({ ...prompt, model: "other" });
    assert.equal((await refused(missing, OpenAI.NotFoundError, "model")).code, "model_not_found");
    const wrongKey = connect(modelUrl, "wrong").models.list();
    await refused(wrongKey, OpenAI.AuthenticationError, null);
  },

  async abandonedStreams() {
    const stream = await model.completions.create({ ...prompt, max_tokens: 500, stream: true });
    for await (const _ of stream) break; // the package closes the connection
    assert.ok((await model.completions.create(prompt)).usage.completion_tokens > 0);
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log("ok    ", name);
  } catch (error) {
    failed += 1;
    console.log("FAILED", name);
    console.log(error);
  }
}
const count = Object.keys(checks).length;
console.log(`${count - failed} of ${count} checks passed`);
process.exit(failed ? 1 : 0);
