// What users of the openai package for Node.js do: each step's result is one line of JSON.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello there" }];
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: {
        type: "object",
        properties: { city: { type: "string" } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
];

function tell(step, result) {
  console.log(JSON.stringify({ step, ...result }));
}

async function failure(work) {
  try {
    await work();
  } catch (error) {
    return {
      kind: error.constructor.name,
      status: error.status ?? null,
      code: error.code ?? null,
      param: error.param ?? null,
      requestId: error.requestID ?? error.request_id ?? null,
      message: error.message,
    };
  }
  return { kind: null };
}

const steps = {
  async unary() {
    const made = await client.chat.completions.create({ model, messages, max_tokens: 5 });
    return { content: made.choices[0].message.content, requestId: made._request_id };
  },
  async stream() {
    const stream = await client.chat.completions.create({
      model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 9,
    });
    let content = "";
    let usage = null;
    for await (const chunk of stream) {
      content += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { content, usage };
  },
  async helper() {
    const stream = client.chat.completions.stream({
      model,
      messages,
      max_tokens: 9,
      stream_options: { include_usage: true },
    });
    const content = await stream.finalContent();
    return { content, usage: await stream.totalUsage() };
  },
  async toolsHelper() {
    const stream = client.chat.completions.stream({
      model,
      messages,
      tools,
      tool_choice: "required",
    });
    const names = [];
    stream.on("tool_calls.function.arguments.done", (event) => names.push(event.name));
    const final = await stream.finalChatCompletion();
    const call = final.choices[0].message.tool_calls[0];
    return { names, name: call.function.name, arguments: JSON.parse(call.function.arguments) };
  },
  async runTools() {
    let ran = 0;
    const runner = client.chat.completions.runTools(
      {
        model,
        messages,
        tool_choice: { type: "function", function: { name: "get_weather" } },
        tools: [
          {
            type: "function",
            function: {
              ...tools[0].function,
              parse: JSON.parse,
              function: () => {
                ran += 1;
                return "sunny";
              },
            },
          },
        ],
      },
      { maxChatCompletions: 2 },
    );
    await runner.finalContent().catch(() => null);
    return { ran };
  },
  async abort() {
    const stream = await client.chat.completions.create({
      model,
      messages,
      stream: true,
      max_tokens: 3000,
      ignore_eos: true,
    });
    let chunks = 0;
    for await (const chunk of stream) {
      chunks += chunk.choices.length;
      if (chunks === 3) stream.controller.abort();
    }
    return { chunks };
  },
  async embeddings() {
    const made = await client.embeddings.create({ model, input: ["a", "b"] });
    return { vectors: made.data.length, numbers: typeof made.data[0].embedding[0] };
  },
  async models() {
    const ids = [];
    for await (const card of client.models.list()) ids.push(card.id);
    return { ids, one: (await client.models.retrieve(model)).id };
  },
  async responses() {
    const made = await client.responses.create({ model, input: "Hello" });
    const stream = client.responses.stream({ model, input: "Hello" });
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    const final = await stream.finalResponse();
    return { text: made.output_text, last: kinds.at(-1), status: final.status };
  },
  async halfAnEmoji() {
    return failure(() =>
      client.chat.completions.create({ model, messages: [{ role: "user", content: "\ud83d" }] }),
    );
  },
  async badRequest() {
    return failure(() => client.chat.completions.create({ model, messages, temperature: 9 }));
  },
  async unknownModel() {
    return failure(() => client.chat.completions.create({ model: "nobody", messages }));
  },
  async wrongKey() {
    const other = new OpenAI({ baseURL, apiKey: "sk-wrong", maxRetries: 0 });
    return failure(() => other.chat.completions.create({ model, messages, stream: true }));
  },
  async tooLarge() {
    const content = "x".repeat(8 * 1024 * 1024);
    return failure(() =>
      client.chat.completions.create({ model, messages: [{ role: "user", content }] }),
    );
  },
};

for (const [name, step] of Object.entries(steps)) {
  try {
    tell(name, await step());
  } catch (error) {
    tell(name, { unexpected: String(error.stack) });
  }
}
