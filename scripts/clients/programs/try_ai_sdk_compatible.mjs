// The Vercel AI SDK by @ai-sdk/openai-compatible, which knows chat and completions.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { Output, generateText, jsonSchema, streamText, tool } from 'ai'
import { z } from 'zod'

import { KEY, MODEL, QUESTION, URL_, asPlainCompletion, attempt } from './attempt.mjs'

const server = createOpenAICompatible({ name: 'govor', baseURL: URL_, apiKey: KEY, supportsStructuredOutputs: true })
const shared = { prompt: QUESTION, temperature: 0, maxRetries: 8 }
const weather = tool({ description: 'The weather of a city.', inputSchema: z.object({ city: z.string() }) })

async function streamed(model) {
  const running = streamText({ ...shared, model, onError() {} })
  let text = ''
  for await (const piece of running.textStream) text += piece
  return text || (await running.text)
}

await attempt({
  chat: async () => (await generateText({ ...shared, model: server(MODEL) })).text,
  stream: () => streamed(server(MODEL)),
  completions: async () => asPlainCompletion(await generateText({ ...shared, model: server.completionModel(MODEL) })),
  async schema() {
    const output = Output.object({ schema: jsonSchema(z.toJSONSchema(z.object({ friends: z.boolean() }))) })
    return (await generateText({ ...shared, model: server(MODEL), output })).output
  },
  async tools() {
    const answer = await generateText({ ...shared, model: server(MODEL), tools: { weather }, toolChoice: 'required' })
    return answer.toolCalls[0].toolName
  },
})
