// The Vercel AI SDK: openai(m) by its default call, which is responses, and openai.chat(m).
import { createOpenAI } from '@ai-sdk/openai'
import { Output, generateText, jsonSchema, streamText, tool } from 'ai'
import { z } from 'zod'

import { KEY, MODEL, QUESTION, URL_, asPlainCompletion, attempt } from './attempt.mjs'

const openai = createOpenAI({ baseURL: URL_, apiKey: KEY })
const shared = { prompt: QUESTION, temperature: 0, maxRetries: 8 }
const weather = tool({ description: 'The weather of a city.', inputSchema: z.object({ city: z.string() }) })

async function streamed(model) {
  const running = streamText({ ...shared, model, onError() {} })
  let text = ''
  for await (const piece of running.textStream) text += piece
  return text || (await running.text)
}

await attempt({
  chat: async () => (await generateText({ ...shared, model: openai.chat(MODEL) })).text,
  stream: () => streamed(openai.chat(MODEL)),
  responses: async () => (await generateText({ ...shared, model: openai(MODEL) })).text,
  responses_stream: () => streamed(openai(MODEL)),
  completions: async () => asPlainCompletion(await generateText({ ...shared, model: openai.completion(MODEL) })),
  async conversation() {
    const first = await generateText({ ...shared, model: openai(MODEL) })
    const messages = [{ role: 'user', content: QUESTION }, ...first.response.messages, { role: 'user', content: 'А теперь?' }]
    return { second: (await generateText({ model: openai(MODEL), messages, temperature: 0, maxRetries: 8 })).text }
  },
  async schema() {
    const output = Output.object({ schema: jsonSchema(z.toJSONSchema(z.object({ friends: z.boolean() }))) })
    return (await generateText({ ...shared, model: openai(MODEL), output })).output
  },
  async tools() {
    const answer = await generateText({ ...shared, model: openai(MODEL), tools: { weather }, toolChoice: 'required' })
    return answer.toolCalls[0].toolName
  },
})
